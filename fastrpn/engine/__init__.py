"""Training, evaluation and prediction."""

from .checkpoint import load_checkpoint, load_model
from .config import TrainConfig
from .evaluate import detect_all, evaluate, evaluate_detections
from .predict import Predictor
from .trainer import NonFiniteLossError, Trainer, TrainResult
from .training import train

__all__ = [
    "NonFiniteLossError",
    "Predictor",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "detect_all",
    "evaluate",
    "evaluate_detections",
    "load_checkpoint",
    "load_model",
    "train",
]
