"""Detection in images, files and videos."""

from fastrpn._extras import require

require("train")

from fastrpn.inference.predictor import Predictor

__all__ = ["Predictor"]
