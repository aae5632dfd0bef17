"""Training: joint, or in the paper's four steps."""

from fastrpn._extras import require

require("train")

from fastrpn.training.config import TrainConfig
from fastrpn.training.log import NonFiniteLossError
from fastrpn.training.loop import Trainer, TrainResult
from fastrpn.training.replay import replay
from fastrpn.training.schedules import train

__all__ = ["NonFiniteLossError", "TrainConfig", "TrainResult", "Trainer", "replay", "train"]
