"""roi_pool against torchvision: 512 x 38 x 50 features, 7 x 7 bins, float32."""

import torch
import torchvision

from benchmarks.rois import OUTPUT, SCALE, all_works
from benchmarks.timing import Measurement
from fastrpn.ops import roi_pool


def run(quick: bool) -> list[Measurement]:
    """Forward, forward with backward, and a scan over the number of RoIs. All results bit-equal."""
    return all_works(
        "roi_pool",
        lambda features, rois: roi_pool(features, rois, OUTPUT, SCALE),
        lambda features, rois: torchvision.ops.roi_pool(features, rois, OUTPUT, SCALE),
        torch.equal,
        torch.equal,
        quick,
    )
