"""roi_align against torchvision: 512 x 38 x 50 features, 7 x 7 bins, two samples each way, float32;
and a pyramid of four levels, 256 channels.
"""

from functools import partial

import torch
import torchvision

from benchmarks.rois import OUTPUT, SCALE, all_works, rpn_like_rois
from benchmarks.timing import Measurement, measure
from fastrpn.ops import MultiScaleRoIAlign, roi_align

SAMPLES = 2
IMAGE = (608, 800)


def pyramid(count: int, channels_last: bool) -> Measurement:
    """MultiScaleRoIAlign on the levels of a feature pyramid network."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    maps = {
        str(stride): torch.randn(
            1, 256, IMAGE[0] // stride, IMAGE[1] // stride, generator=generator
        ).contiguous(memory_format=layout)
        for stride in (4, 8, 16, 32)
    }
    boxes = [rpn_like_rois(count)[:, 1:]]

    def candidate(module: type[torch.nn.Module]):
        return partial(module(list(maps), OUTPUT, SAMPLES), maps, boxes, [IMAGE])

    candidates = {
        "fastrpn": candidate(MultiScaleRoIAlign),
        "torchvision": candidate(torchvision.ops.MultiScaleRoIAlign),
    }
    work = f"pyramid, {count} RoIs" + (", channels last" if channels_last else "")
    with torch.no_grad():
        return measure("roi_align", work, count, candidates, equal=partial(close, 1e-5))


def close(tolerance: float, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Sums in another order: equal up to rounding."""
    return torch.allclose(a, b, rtol=1e-5, atol=tolerance)


def run(quick: bool) -> list[Measurement]:
    """Forward, forward with backward, a scan over the number of RoIs, and a pyramid."""
    rows = all_works(
        "roi_align",
        lambda features, rois: roi_align(features, rois, OUTPUT, SCALE, SAMPLES),
        lambda features, rois: torchvision.ops.roi_align(features, rois, OUTPUT, SCALE, SAMPLES),
        partial(close, 1e-5),
        partial(close, 1e-4),  # an element sums some hundred gradients
        quick,
    )
    counts = [300] if quick else [10, 300, 1000]
    return rows + [pyramid(count, layout) for layout in (False, True) for count in counts]
