"""Training and evaluation."""

from .evaluate import detect_all, evaluate, evaluate_detections

__all__ = ["detect_all", "evaluate", "evaluate_detections"]
