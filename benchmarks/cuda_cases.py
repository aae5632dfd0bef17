"""What the GPU benchmarks run: each op on the sizes that matter, beside torchvision."""

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from benchmarks import cuda_roi_cases
from benchmarks.cuda_timing import Call, Case
from benchmarks.generate_proposals import torchvision_stage
from benchmarks.inputs import dense_boxes, rpn_boxes
from benchmarks.scenes import FPN_LEVELS, anchor_grid, head_outputs
from fastrpn import ops


def forward(function):
    """Times the function on the inputs."""
    return lambda *inputs: partial(function, *inputs)


def in_half(function, dtype: torch.dtype = torch.float16):
    """The same on inputs of a half type."""

    def prepare(*inputs: Tensor) -> Call:
        return partial(function, *(x.to(dtype) for x in inputs))

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
            {"× torchvision": (3, 6)},
        )
    n = 2000 if dry else 100_000
    yield Case(
        *("nms", f"{n:,} dense @0.5", n, partial(dense_boxes, n, extent=2000)),
        {
            "fastrpn": forward(lambda b, s: ops.nms(b, s, 0.5)),
            "torchvision": forward(lambda b, s: torchvision.ops.nms(b, s, 0.5)),
        },
        {"× torchvision": (10, 50), "of torchvision's memory": (0.05, None)},
    )
    n, extent = (3000, 400) if dry else (1_000_000, 7000)
    million = forward(lambda b, s: ops.nms(b, s, 0.5))  # torchvision's mask would be 125 GB
    make = partial(dense_boxes, n, extent=extent)
    yield Case("nms", f"{n:,} dense @0.5", n, make, {"fastrpn": million})
    yield from half_nms_cases(dry)
    n = 500 if dry else 20_000
    yield Case(
        *("batched_nms", f"{n:,} x 80 classes", n),
        lambda: [*dense_boxes(n, extent=800), torch.arange(n) % 80],
        {
            "fastrpn": forward(lambda b, s, c: ops.batched_nms(b, s, c, 0.5)),
            "torchvision": forward(lambda b, s, c: torchvision.ops.batched_nms(b, s, c, 0.5)),
        },
        comparable=False,  # coordinates with offsets are rounded
    )
    yield batched_nms_case(*((2, 500) if dry else (8, 20_000)))
    yield from soft_nms_cases(dry)


def half_nms_cases(dry: bool) -> Iterator[Case]:
    """Boxes of half types; torchvision has float16 alone, and that on a GPU alone."""
    n = 300 if dry else 12_000
    for dtype in (torch.float16, torch.bfloat16):
        libraries = {"fastrpn": forward(lambda b, s: ops.nms(b, s, 0.7))}
        if dtype == torch.float16 and not dry:
            libraries["torchvision"] = forward(lambda b, s: torchvision.ops.nms(b, s, 0.7))
        work = f"{n:,} RPN-like @0.7, {str(dtype).removeprefix('torch.')}"
        yield Case(
            *("nms", work, n),
            lambda dtype=dtype: [x.to(dtype) for x in rpn_boxes(n)],
            libraries,
            comparable=False,  # equal scores, in any order
        )


def soft_nms_cases(dry: bool) -> Iterator[Case]:
    """No peer on a GPU that we know of."""
    for n in [100] if dry else [1000, 10_000]:
        yield Case(
            *("soft_nms", f"{n:,} RPN-like, linear", n, partial(rpn_boxes, n)),
            {"fastrpn": forward(lambda b, s: ops.soft_nms(b, s, score_threshold=0.05))},
        )


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
        {"× torchvision": (5, 15)},
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
            {
                "fastrpn": forward(ops.box_iou),
                "fastrpn float16": in_half(ops.box_iou),
                "torchvision": forward(torchvision.ops.box_iou),
                "torchvision float16": in_half(torchvision.ops.box_iou),
            },
            {"× torchvision": (6, None), "of fill": (0.8, 0.95)},
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
        {"× torchvision": (10, 30)},
        comparable=False,
    )


ALL = (nms_cases, box_iou_cases, match_anchors_cases, proposal_cases, *cuda_roi_cases.ALL)
