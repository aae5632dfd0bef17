"""What the instances are timed on: for each op the sizes at which its constants matter."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cuda_roi_cases import features_and_rois
from benchmarks.inputs import dense_boxes, rpn_boxes
from benchmarks.scenes import FPN_LEVELS, anchor_grid
from fastrpn import ops


@dataclass
class Case:
    """One work of an op.

    Attributes:
        op, work: what is computed.
        inputs: on the CPU, named as in tests/cuda_on_cpu/run_<op>.cpp.
        expected: gives the outputs from inputs on the device, by fastrpn's operators.
    """

    op: str
    work: str
    inputs: dict[str, Tensor | float]
    expected: Callable[[dict[str, Tensor | float]], dict[str, Tensor]]


def cases(is_dry: bool) -> Iterator[Case]:
    for of_op in (nms_cases, box_iou_cases, match_anchors_cases, soft_nms_cases, roi_cases):
        yield from of_op(is_dry)


def nms_cases(is_dry: bool) -> Iterator[Case]:
    """Both sides of the borders between ranking and sorting, of the sweeps' order, of segments."""
    for n in [150] if is_dry else [300, 1000, 2000, 4000, 6000, 12_000]:
        yield nms_case(f"{n:,} RPN-like @0.7", *rpn_boxes(n), threshold=0.7)
    for n, extent in [(200, 150)] if is_dry else [(10_000, 600), (20_000, 800), (100_000, 2000)]:
        yield nms_case(f"{n:,} dense @0.5", *dense_boxes(n, extent=extent), threshold=0.5)
    images, n, first = (2, 120, 20) if is_dry else (8, 8000, 1000)
    batch = [rpn_boxes(n, seed) for seed in range(images)]
    boxes, scores = (torch.stack(x) for x in zip(*batch, strict=True))
    work = f"{images} images, {n:,} RPN-like @0.7, first {first:,}"
    yield nms_case(work, boxes, scores, threshold=0.7, first=first)
    n, counts = (250, [5]) if is_dry else (10_000, [8, 16, 80])
    for count in counts:
        work, classes = f"{n:,} x {count} classes, dense @0.5", torch.arange(n) % count
        yield nms_case(work, *dense_boxes(n, extent=600), threshold=0.5, groups=classes)


def nms_case(
    work: str,
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    first: int | None = None,
    groups: Tensor | None = None,
) -> Case:
    """Boxes [N, 4] or [B, N, 4]; `first`: the search ends there; `groups` [N] of one image."""
    boxes, scores = boxes.reshape(-1, *boxes.shape[-2:]), scores.reshape(-1, scores.shape[-1])
    first = first or boxes.shape[1]

    def expected(inputs):
        of = inputs.get("groups")
        found = ops.nms_padded(inputs["boxes"], inputs["scores"], threshold, first, groups=of)
        return dict(zip(("indices", "kept"), found, strict=True))

    inputs = {"boxes": boxes, "scores": scores, "iou_threshold": threshold, "max_output": first}
    if groups is not None:
        inputs["groups"] = groups[None]
    return Case("nms", work, inputs, expected)


def box_iou_cases(is_dry: bool) -> Iterator[Case]:
    for rows, columns in [(40, 24)] if is_dry else [(200_000, 400), (8000, 8000), (500, 50)]:
        boxes = [dense_boxes(n, seed, extent=800)[0] for seed, n in enumerate((rows, columns))]
        inputs = dict(zip(("boxes1", "boxes2"), boxes, strict=True))
        work = f"{rows:,} x {columns:,}"
        yield Case("box_iou", work, inputs, lambda given: {"iou": ops.box_iou(*given.values())})


def match_anchors_cases(is_dry: bool) -> Iterator[Case]:
    anchors = torch.cat([anchor_grid(*level) for level in FPN_LEVELS[4 if is_dry else 0 :]])
    for images, objects in [(2, 3)] if is_dry else [(2, 8), (8, 32), (8, 300)]:
        gt = [dense_boxes(objects, seed, extent=800)[0] for seed in range(images)]
        inputs = {
            "anchors": anchors,
            "gt_boxes": torch.stack(gt),
            "gt_counts": torch.full((images,), objects),
            **{"high": 0.7, "low": 0.3, "allow_low_quality": 1},
        }

        def expected(given):
            three = given["anchors"], given["gt_boxes"], given["gt_counts"]
            found = ops.match_anchors(*three, high=0.7, low=0.3)
            return dict(zip(("matched_gt", "max_iou"), found, strict=True))

        work = f"{len(anchors):,} x {objects}, {images} images"
        yield Case("match_anchors", work, inputs, expected)


def soft_nms_cases(is_dry: bool) -> Iterator[Case]:
    for n in [100] if is_dry else [300, 1000, 10_000]:
        boxes, scores = rpn_boxes(n)
        numbers = {"gaussian": 0, "sigma": 0.5, "iou_threshold": 0.3, "score_threshold": 0.05}

        def expected(given):
            indices, decayed = ops.soft_nms(
                given["boxes"], given["scores"], iou_threshold=0.3, score_threshold=0.05
            )
            rest = len(given["boxes"]) - len(indices)
            pad = torch.nn.functional.pad
            return {
                "indices": pad(indices, (0, rest), value=-1),
                "decayed": pad(decayed, (0, rest)),
            }

        inputs = {"boxes": boxes, "scores": scores, **numbers}
        yield Case("soft_nms", f"{n:,} RPN-like, linear", inputs, expected)


def roi_cases(is_dry: bool) -> Iterator[Case]:
    """Channels last, forward and backward."""
    maps = [((1, 512, 38, 50), 1 / 16, 2000), ((1, 256, 200, 272), 1 / 4, 2000)]
    for shape, scale, count in [((1, 8, 19, 25), 1 / 16, 5)] if is_dry else maps:
        features, rois = features_and_rois(shape, count, scale)
        work = f"{count:,} RoIs, {'x'.join(map(str, shape[1:]))}"
        for op in ("roi_pool", "roi_align"):
            yield forward_case(op, work, features, rois, scale)
            yield backward_case(op, work, features, rois, scale)


def pooled_by(op: str, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    options = {"output_size": 7, "spatial_scale": scale}
    if op == "roi_align":
        options |= {"sampling_ratio": 2, "aligned": True}
    return getattr(ops, op)(features, rois, **options)


def shape_of_call(op: str, features: Tensor, scale: float) -> dict[str, Tensor | float]:
    batch, channels, height, width = features.shape
    numbers = {"batch": batch, "channels": channels, "pooled_height": 7, "pooled_width": 7}
    numbers["channels_last"] = 1
    if op == "roi_pool":
        return numbers | {"height": height, "width": width, "spatial_scale": scale}
    levels = {"heights": torch.tensor([height]), "widths": torch.tensor([width])}
    levels["scales"] = torch.tensor([scale], dtype=torch.float64)
    return numbers | levels | {"sampling_ratio": 2, "aligned": 1}


def stored(x: Tensor) -> Tensor:
    """The elements in the order of channels last."""
    return x.permute(0, 2, 3, 1).reshape(-1).contiguous()


def forward_case(op: str, work: str, features: Tensor, rois: Tensor, scale: float) -> Case:
    name, (batch, channels, height, width) = features_name(op), features.shape

    def expected(given):
        maps = given[name].view(batch, height, width, channels).permute(0, 3, 1, 2)
        return {"output": stored(pooled_by(op, maps, given["rois"], scale))}

    inputs = {name: stored(features), "rois": rois, **shape_of_call(op, features, scale)}
    return Case(op, f"forward, {work}", inputs, expected)


def backward_case(op: str, work: str, features: Tensor, rois: Tensor, scale: float) -> Case:
    """The gradient of the features; the argmax of roi_pool comes from its forward, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(len(rois), features.shape[1], 7, 7, generator=generator)

    def expected(given):
        leaf = features.to(given["rois"].device).contiguous(memory_format=torch.channels_last)
        leaf.requires_grad_()
        output = pooled_by(op, leaf, given["rois"], scale)
        upstream = given["grad_output"].view(len(rois), 7, 7, -1).permute(0, 3, 1, 2)
        name = "grad_" + features_name(op)
        return {name: stored(torch.autograd.grad(output, leaf, upstream)[0])}

    inputs = {"grad_output": stored(grad), "rois": rois, **shape_of_call(op, features, scale)}
    if op == "roi_pool":
        maps = features.contiguous(memory_format=torch.channels_last)
        argmax = torch.ops.fastrpn.roi_pool_argmax(maps, rois, scale, 7, 7)[1]
        inputs["argmax"] = stored(argmax)
    return Case(op, f"backward, {work}", inputs, expected)


def features_name(op: str) -> str:
    return "features" if op == "roi_pool" else "features0"
