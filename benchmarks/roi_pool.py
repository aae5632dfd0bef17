"""roi_pool against torchvision: 512 x 38 x 50 features, 7 x 7 bins, float32."""

import torch
import torchvision

from benchmarks.rois import OUTPUT, SCALE, all_works
from benchmarks.timing import Measurement
from fastrpn.ops import roi_pool


def ours(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return roi_pool(features, rois, OUTPUT, SCALE)


def theirs(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return torchvision.ops.roi_pool(features, rois, OUTPUT, SCALE)


def run(quick: bool) -> list[Measurement]:
    """Forward, and forward with backward. All results bit-equal."""
    return all_works("roi_pool", ours, theirs, torch.equal, torch.equal, quick)
