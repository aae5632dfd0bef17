"""roi_align against torchvision: 512 x 38 x 50 features, 7 x 7 bins, two samples each way, float32.

And MultiScaleRoIAlign at the sizes of torchvision's detectors: an 800 x 1088 image, four levels of
256 channels, 7 x 7 bins for boxes (1,000 proposals in a test, 512 in training), 14 x 14 for masks.
"""

from collections.abc import Callable
from functools import partial

import torch
import torchvision

from benchmarks.rois import OUTPUT, SCALE, all_works, layout_name, rpn_like_rois
from benchmarks.timing import Measurement, measure
from fastrpn.ops import MultiScaleRoIAlign, roi_align

SAMPLES = 2
IMAGE = (800, 1088)
PYRAMIDS = [(1_000, 7), (512, 7), (100, 14)]  # RoIs, bins each way


def pyramid_candidates(count: int, bins: int, channels_last: bool) -> dict[str, Callable]:
    """MultiScaleRoIAlign on the levels of a feature pyramid network."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    maps = {
        str(stride): torch.randn(
            1, 256, IMAGE[0] // stride, IMAGE[1] // stride, generator=generator
        ).contiguous(memory_format=layout)
        for stride in (4, 8, 16, 32)
    }
    boxes = [rpn_like_rois(count, IMAGE)[:, 1:]]

    def candidate(module: type[torch.nn.Module]):
        return partial(module(list(maps), bins, SAMPLES), maps, boxes, [IMAGE])

    return {
        "fastrpn": candidate(MultiScaleRoIAlign),
        "torchvision": candidate(torchvision.ops.MultiScaleRoIAlign),
        "fill": lambda: torch.empty(count, 256, bins, bins).fill_(1.0),
    }


def pyramid(count: int, bins: int, channels_last: bool) -> Measurement:
    found = pyramid_candidates(count, bins, channels_last)
    work = f"pyramid, {count:,} RoIs, {bins} x {bins}, {layout_name(channels_last)}"
    return measure("MultiScaleRoIAlign", work, count, found, equal=partial(close, 1e-5))


def close(tolerance: float, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Sums in another order: equal up to rounding."""
    return torch.allclose(a, b, rtol=1e-5, atol=tolerance)


def ours(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return roi_align(features, rois, OUTPUT, SCALE, SAMPLES)


def theirs(features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
    return torchvision.ops.roi_align(features, rois, OUTPUT, SCALE, SAMPLES)


def run(quick: bool) -> list[Measurement]:
    """Forward, forward with backward, and pyramids."""
    rows = all_works(
        "roi_align",
        ours,
        theirs,
        partial(close, 1e-5),
        partial(close, 1e-4),  # an element sums some hundred gradients
        quick,
    )
    for channels_last in (False, True):
        for count, bins in PYRAMIDS[-1:] if quick else PYRAMIDS:
            rows.append(pyramid(count, bins, channels_last))
    return rows
