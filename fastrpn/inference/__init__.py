"""Detection in images, files and videos."""

from fastrpn.inference.predictor import Predictor

__all__ = ["Predictor"]
