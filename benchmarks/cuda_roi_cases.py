"""The GPU benchmarks of roi_pool, roi_align and the pyramid, forward and backward."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from benchmarks.cuda_timing import Call, Case
from fastrpn import ops

Pool = Callable[..., Tensor]  # of features and RoIs
HALF = torch.float16


def forward(function: Pool, channels_last: bool = False, dtype: torch.dtype | None = None):
    """Times the function; with the features in a layout and everything in a dtype."""

    def prepare(*inputs: Tensor) -> Call:
        return partial(function, *as_wanted(inputs, channels_last, dtype))

    return prepare


def backward(
    function: Pool,
    channels_last: bool = False,
    dtype: torch.dtype | None = None,
    deterministic: bool = False,
):
    """Times the gradient of the features, all inputs but the last, alone."""

    def prepare(*inputs: Tensor) -> Call:
        *features, rois = as_wanted(inputs, channels_last, dtype)
        leaves = [x.detach().requires_grad_() for x in features]
        output = in_mode(deterministic, lambda: function(*leaves, rois))
        upstream = torch.ones_like(output)

        def gradients():
            return torch.autograd.grad(output, leaves, upstream, retain_graph=True)

        return (lambda: in_mode(True, gradients)) if deterministic else gradients

    return prepare


def in_mode(deterministic: bool, call: Call) -> object:
    """The call's result; torch's deterministic algorithms or the usual ones.

    torchvision's are compiled then, and compiled code gives its buffers away unless it is told not
    to, so that no second backward could follow.
    """
    torch.use_deterministic_algorithms(deterministic)
    try:
        with torch._functorch.config.patch(donated_buffer=False):
            return call()
    finally:
        torch.use_deterministic_algorithms(False)


def as_wanted(inputs: tuple[Tensor, ...], channels_last: bool, dtype: torch.dtype | None):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    *features, rois = (x if dtype is None else x.to(dtype) for x in inputs)
    return [*(x.contiguous(memory_format=layout) for x in features), rois]


def libraries(time, ours: Pool, theirs: Pool) -> dict[str, Callable[..., Call]]:
    """Our models run channels last; `time` is `forward` or `backward`."""
    return {
        "fastrpn": time(ours, channels_last=True),
        "fastrpn NCHW": time(ours),
        "fastrpn float16": time(ours, channels_last=True, dtype=HALF),
        "torchvision": time(theirs),
        "torchvision float16": time(theirs, dtype=HALF),
    }


def roi_cases(dry: bool) -> Iterator[Case]:
    maps = [((1, 512, 38, 50), 1 / 16), ((1, 256, 200, 272), 1 / 4)]
    if dry:
        maps = [((1, 16, 19, 25), 1 / 16)]
    count = 20 if dry else 2000
    for shape, scale in maps:
        make = partial(features_and_rois, shape, count, scale)
        work = f"{count:,} RoIs, {'x'.join(map(str, shape[1:]))}"
        pool = {"output_size": 7, "spatial_scale": scale}
        align = pool | {"sampling_ratio": 2, "aligned": True}
        for op, options, must, aim in [("roi_pool", pool, 3, 6), ("roi_align", align, 1.5, 3)]:
            ours = partial(getattr(ops, op), **options)
            theirs = partial(getattr(torchvision.ops, op), **options)
            yield Case(
                *(op, f"forward, {work}", count, make, libraries(forward, ours, theirs)),
                {"× torchvision": (must, aim)},
            )
            gradients, targets = libraries(backward, ours, theirs), {"× torchvision": (1, 2)}
            if op == "roi_align":
                gradients["torchvision deterministic"] = backward(theirs, deterministic=True)
                targets |= {"× torchvision deterministic": (20, None)}
            yield Case(op, f"backward, {work}", count, make, gradients, targets)


def pyramid_cases(dry: bool) -> Iterator[Case]:
    """The box head's pooling of a ResNet-FPN: four levels, 512 RoIs an image."""
    images, count, channels = (1, 20, 8) if dry else (2, 1024, 256)
    size = (128, 160) if dry else (800, 1088)
    names, shapes = ["0", "1", "2", "3"], [size] * images

    def make():
        levels = [
            features_and_rois((images, channels, size[0] // s, size[1] // s), count, 1 / s)
            for s in (4, 8, 16, 32)
        ]
        return [*(features for features, _ in levels), levels[0][1]]

    def pooled_by(module: torch.nn.Module) -> Pool:
        def run(*inputs: Tensor) -> Tensor:
            *levels, rois = inputs
            boxes = [rois[i :: len(shapes), 1:] for i in range(len(shapes))]
            return module(OrderedDict(zip(names, levels, strict=True)), boxes, shapes)

        return run

    ours = pooled_by(ops.MultiScaleRoIAlign(names, 7, 2))
    theirs = pooled_by(torchvision.ops.MultiScaleRoIAlign(names, 7, 2))
    work = f"{count:,} RoIs, {images} images, 4 levels"
    for name, time in (("forward", forward), ("backward", backward)):
        yield Case("multiscale_roi_align", f"{name}, {work}", count, make,
                   libraries(time, ours, theirs))  # fmt: skip


def features_and_rois(shape: tuple[int, ...], count: int, scale: float) -> list[Tensor]:
    """Random features [N, C, H, W] and RoIs [count, 5] within the first image."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([shape[3], shape[2]]) / scale
    corners = torch.rand(count, 2, generator=generator) * extent * 0.7
    sides = torch.rand(count, 2, generator=generator) * extent * 0.3
    rois = torch.cat([torch.zeros(count, 1), corners, corners + sides], dim=1)
    return [torch.randn(shape, generator=generator), rois]


ALL = (roi_cases, pyramid_cases)
