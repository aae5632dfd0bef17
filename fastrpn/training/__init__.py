"""Training: joint, or in the paper's four steps."""

from fastrpn.training.config import TrainConfig
from fastrpn.training.history import NonFiniteLossError
from fastrpn.training.trainer import Trainer, TrainResult
from fastrpn.training.training import train

__all__ = ["NonFiniteLossError", "TrainConfig", "TrainResult", "Trainer", "train"]
