"""What the GPU benchmarks run: each op on the sizes that matter, beside torchvision."""

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from benchmarks.cuda_timing import Call, Case
from benchmarks.generate_proposals import torchvision_stage
from benchmarks.inputs import dense_boxes, rpn_boxes
from benchmarks.scenes import FPN_LEVELS, anchor_grid, head_outputs
from fastrpn import ops


def forward(function):
    """Times the function on the inputs."""
    return lambda *inputs: partial(function, *inputs)


def backward(function, deterministic: bool = False):
    """Times the gradient of the function's first input alone."""

    def prepare(features: Tensor, *others: Tensor) -> Call:
        leaf = features.detach().requires_grad_()

        def call():
            return torch.autograd.grad(output, leaf, upstream, retain_graph=True)[0]

        def call_deterministically():
            torch.use_deterministic_algorithms(True)
            try:
                return call()
            finally:
                torch.use_deterministic_algorithms(False)

        torch.use_deterministic_algorithms(deterministic)
        try:
            output = function(leaf, *others)
        finally:
            torch.use_deterministic_algorithms(False)
        upstream = torch.ones_like(output)
        return call_deterministically if deterministic else call

    return prepare


def memory_cases(dry: bool) -> Iterator[Case]:
    """The device's own speed."""
    size = 1 << 16 if dry else 1 << 30
    zeros = [torch.zeros(size // 4)]
    fill, copy = forward(lambda x: x.fill_(1)), forward(lambda x: x.clone())
    yield Case("fill", f"{size:,} bytes", size, lambda: zeros, {"fill": fill})
    yield Case("copy", f"{size:,} bytes", 2 * size, lambda: zeros, {"copy": copy})


def nms_cases(dry: bool) -> Iterator[Case]:
    for n in [300] if dry else [300, 1000, 2000, 6000, 12_000]:
        yield Case(
            *("nms", f"{n:,} RPN-like @0.7", n, partial(rpn_boxes, n)),
            {
                "fastrpn": forward(lambda b, s: ops.nms(b, s, 0.7)),
                "torchvision": forward(lambda b, s: torchvision.ops.nms(b, s, 0.7)),
            },
            *(3, 6),
        )
    n = 2000 if dry else 100_000
    yield Case(
        *("nms", f"{n:,} dense @0.5", n, partial(dense_boxes, n, extent=2000)),
        {
            "fastrpn": forward(lambda b, s: ops.nms(b, s, 0.5)),
            "torchvision": forward(lambda b, s: torchvision.ops.nms(b, s, 0.5)),
        },
        *(10, 50),
    )
    if not dry:  # torchvision's mask would be 125 GB
        million = forward(lambda b, s: ops.nms(b, s, 0.5))
        make = partial(dense_boxes, 1_000_000, extent=7000)
        yield Case("nms", "1,000,000 dense @0.5", 1_000_000, make, {"fastrpn": million})
    yield batched_nms_case(*((2, 500) if dry else (8, 20_000)))


def batched_nms_case(images: int, n: int) -> Case:
    """One image after the other, as a detector on torchvision does, against one call."""

    def make():
        sets = [dense_boxes(n, seed, extent=800) for seed in range(images)]
        boxes, scores = (torch.stack(x) for x in zip(*sets, strict=True))
        return [boxes, scores, (torch.arange(n) % 80).expand(images, n)]

    def ours(boxes, scores, classes):
        return ops.nms_padded(boxes, scores, 0.5, n, groups=classes)

    def theirs(boxes, scores, classes):
        sets = zip(boxes, scores, classes, strict=True)
        return [torchvision.ops.batched_nms(*one, 0.5) for one in sets]

    return Case(
        *("batched_nms", f"{n:,} x 80 classes, {images} images", images * n, make),
        {"fastrpn": forward(ours), "torchvision": forward(theirs)},
        *(5, 15),
        comparable=False,
    )


def boxes_of(n: int, seed: int) -> Tensor:
    """[n, 4] within an image."""
    return dense_boxes(n, seed, extent=800)[0]


def box_iou_cases(dry: bool) -> Iterator[Case]:
    for rows, columns in [(500, 20)] if dry else [(200_000, 400), (16_000, 16_000)]:
        yield Case(
            *("box_iou", f"{rows:,} x {columns:,}", rows * columns),
            lambda rows=rows, columns=columns: [boxes_of(rows, 0), boxes_of(columns, 1)],
            {"fastrpn": forward(ops.box_iou), "torchvision": forward(torchvision.ops.box_iou)},
            *(6, None),
            bound="fill",
        )


def match_anchors_cases(dry: bool) -> Iterator[Case]:
    levels = FPN_LEVELS[2:] if dry else FPN_LEVELS
    images = 2 if dry else 8
    anchors = torch.cat([anchor_grid(*level) for level in levels])
    matcher = torchvision.models.detection._utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)

    def make():
        return [anchors, torch.stack([boxes_of(32, seed) for seed in range(images)])]

    def ours(anchors, gt):
        counts = torch.full((len(gt),), gt.shape[1], device=gt.device)
        return ops.match_anchors(anchors, gt, counts, high=0.7, low=0.3)[0]

    def theirs(anchors, gt):
        return torch.stack([matcher(torchvision.ops.box_iou(g, anchors)) for g in gt])

    yield Case(
        *("match_anchors", f"{len(anchors):,} x 32, {images} images", images * len(anchors), make),
        {"fastrpn": forward(ours), "torchvision": forward(theirs)},
    )


def roi_cases(dry: bool) -> Iterator[Case]:
    maps = [((1, 512, 38, 50), 1 / 16), ((1, 256, 200, 272), 1 / 4)]
    if dry:
        maps = [((1, 16, 19, 25), 1 / 16)]
    count = 20 if dry else 2000
    for shape, scale in maps:
        make = partial(features_and_rois, shape, count, scale)
        work = f"{count:,} RoIs, {'x'.join(map(str, shape[1:]))}"

        def our_pool(x, rois, scale=scale):
            return ops.roi_pool(x, rois, 7, scale)

        def their_pool(x, rois, scale=scale):
            return torchvision.ops.roi_pool(x, rois, 7, scale)

        def our_align(x, rois, scale=scale):
            return ops.roi_align(x, rois, 7, scale, 2, True)

        def their_align(x, rois, scale=scale):
            return torchvision.ops.roi_align(x, rois, 7, scale, 2, True)

        for op, ours, theirs, must, aim in [
            ("roi_pool", our_pool, their_pool, 3, 6),
            ("roi_align", our_align, their_align, 1.5, 3),
        ]:
            libraries = {
                "fastrpn": channels_last(forward(ours)),
                "fastrpn NCHW": forward(ours),
                "torchvision": forward(theirs),
            }
            yield Case(op, f"forward, {work}", count, make, libraries, must, aim)
            gradients = {
                "fastrpn": channels_last(backward(ours)),
                "fastrpn NCHW": backward(ours),
                "torchvision": backward(theirs),
            }
            if op == "roi_align":
                gradients["torchvision deterministic"] = backward(theirs, deterministic=True)
            yield Case(op, f"backward, {work}", count, make, gradients, 1, 2)


def channels_last(prepare):
    """The same with the features in the layout that our models run in."""

    def prepare_channels_last(features: Tensor, *others: Tensor) -> Call:
        return prepare(features.contiguous(memory_format=torch.channels_last), *others)

    return prepare_channels_last


def features_and_rois(shape: tuple[int, ...], count: int, scale: float) -> list[Tensor]:
    """Random features [1, C, H, W] and RoIs [count, 5] within the image they stand for."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([shape[3], shape[2]]) / scale
    corners = torch.rand(count, 2, generator=generator) * extent * 0.7
    sides = torch.rand(count, 2, generator=generator) * extent * 0.3
    rois = torch.cat([torch.zeros(count, 1), corners, corners + sides], dim=1)
    return [torch.randn(shape, generator=generator), rois]


def proposal_cases(dry: bool) -> Iterator[Case]:
    levels = FPN_LEVELS[2:] if dry else FPN_LEVELS
    images, before, after = (2, 100, 50) if dry else (8, 2000, 2000)
    grids = [anchor_grid(*level) for level in levels]
    anchors, sizes = torch.cat(grids), [len(grid) for grid in grids]

    def make():
        image_sizes = torch.tensor([[800, 1088]] * images)
        return [*head_outputs(anchors, images, seed=0), anchors, image_sizes]

    def ours(objectness, deltas, anchors, image_sizes):
        return ops.generate_proposals(
            *(objectness, deltas, anchors, image_sizes),
            pre_nms_top_n=before,
            post_nms_top_n=after,
            nms_threshold=0.7,
            min_size=1e-3,
            anchors_per_level=sizes,
        )

    work = f"{images} images x {len(anchors):,} anchors, {len(levels)} levels"
    yield Case(
        *("generate_proposals", work, images * len(anchors), make),
        {
            "fastrpn": forward(ours),
            "torchvision": lambda o, d, a, _: torchvision_stage(o, d, a, sizes, before, after),
        },
        *(10, 30),
        comparable=False,
    )


ALL = (nms_cases, box_iou_cases, match_anchors_cases, proposal_cases, roi_cases)
