"""Inputs and comparisons shared by benchmarks/roi_pool.py and benchmarks/roi_align.py.

The map is the last one of VGG16 on a 600 x 800 image; RoIs are anchors moved and stretched a
little, as a region proposal network would, and clipped to the image.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.timing import Measurement, measure

CHANNELS, HEIGHT, WIDTH, STRIDE = 512, 38, 50, 16
OUTPUT = 7
SCALE = 1 / STRIDE
COUNTS = (128, 300, 2_000)  # RoIs; with backward: the first

Operator = Callable[[Tensor, Tensor], Tensor]


def feature_map(channels_last: bool = False) -> Tensor:
    """`[1, 512, 38, 50]` non-negative features, as behind a ReLU."""
    features = torch.randn(1, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return features.relu().contiguous(memory_format=layout)


def rpn_like_rois(count: int, image: tuple[int, int] = (HEIGHT * STRIDE, WIDTH * STRIDE)) -> Tensor:
    """`[count, 5]` RoIs on an image of this height and width."""
    generator = torch.Generator().manual_seed(count)
    size = torch.tensor([image[1], image[0]])
    side = torch.tensor([128.0, 256.0, 512.0])[torch.randint(3, (count,), generator=generator)]
    ratio = torch.tensor([0.5, 1.0, 2.0])[torch.randint(3, (count,), generator=generator)]
    stretch = torch.exp(0.2 * torch.randn(count, 2, generator=generator))
    extent = torch.stack([side / ratio.sqrt(), side * ratio.sqrt()], dim=1) * stretch
    centre = torch.rand(count, 2, generator=generator) * size
    corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    return torch.cat([torch.zeros(count, 1), torch.minimum(corners.relu(), size.repeat(2))], dim=1)


def layout_name(channels_last: bool) -> str:
    return "channels last" if channels_last else "NCHW"


def fresh_output(count: int) -> Tensor:
    """As much memory as the op returns, allocated and written once."""
    return torch.empty(count, CHANNELS, OUTPUT, OUTPUT).fill_(1.0)


def forward_candidates(
    count: int, ours: Operator, theirs: Operator, channels_last: bool = False
) -> dict[str, Callable]:
    """Forward of one map; `fill` is the time to write a fresh output."""
    features, rois = feature_map(channels_last), rpn_like_rois(count)
    return {
        "fastrpn": lambda: ours(features, rois),
        "torchvision": lambda: theirs(features, rois),
        "fill": lambda: fresh_output(count),
    }


def backward_candidates(
    count: int, ours: Operator, theirs: Operator, channels_last: bool = False
) -> dict[str, Callable]:
    """Forward and the gradient of the features, which has their layout."""
    features, rois = feature_map(channels_last).requires_grad_(), rpn_like_rois(count)
    weight = torch.randn(
        count, CHANNELS, OUTPUT, OUTPUT, generator=torch.Generator().manual_seed(1)
    )
    if channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last)

    def step(operator: Operator) -> Tensor:
        return torch.autograd.grad(operator(features, rois), features, weight)[0]

    return {"fastrpn": lambda: step(ours), "torchvision": lambda: step(theirs)}


def all_works(
    op: str, ours: Operator, theirs: Operator, equal, equal_gradient, quick: bool
) -> list[Measurement]:
    """The rows of both benchmarks: forward, and with backward, in both layouts."""
    rows = []
    for channels_last in (False, True):
        layout = layout_name(channels_last)
        for count in COUNTS[1:2] if quick else COUNTS:
            found = forward_candidates(count, ours, theirs, channels_last)
            rows.append(measure(op, f"{count:,} RoIs, {layout}", count, found, equal=equal))
        found = backward_candidates(COUNTS[0], ours, theirs, channels_last)
        work = f"{COUNTS[0]:,} RoIs, with backward, {layout}"
        rows.append(measure(op, work, COUNTS[0], found, equal=equal_gradient))
    return rows
