"""A data set of drawn shapes, and a detector by contours to stand beside a trained one."""

from fastrpn.data.synthetic.baseline import ContourBaseline, majority_label
from fastrpn.data.synthetic.generate import SYNTHETIC_CLASSES, generate_synthetic

__all__ = ["SYNTHETIC_CLASSES", "ContourBaseline", "generate_synthetic", "majority_label"]
