"""Evaluation: average precision as PASCAL VOC and COCO define it."""

from fastrpn._extras import require

require("train")

from fastrpn.evaluation.evaluate import detect_all, evaluate, evaluate_detections

__all__ = ["detect_all", "evaluate", "evaluate_detections"]
