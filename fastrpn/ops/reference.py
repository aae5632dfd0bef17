"""Oracles: what every kernel must compute, in a few lines of torch each.

Slow and meant to be read. The tests compare the CPU and CUDA kernels with these functions, which
share no code with them. Semantics are torchvision's where torchvision has the operator.
"""

import math

import torch
from torch import Tensor

from fastrpn.ops.box_coding import decode_boxes


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """`[..., N, 4]`, `[..., M, 4]` -> `[..., N, M]`; half types in and float32 out."""
    if boxes1.dtype in (torch.float16, torch.bfloat16):
        boxes1, boxes2 = boxes1.float(), boxes2.float()
    x11, y11, x12, y12 = (column[..., :, None] for column in boxes1.unbind(-1))
    x21, y21, x22, y22 = (column[..., None, :] for column in boxes2.unbind(-1))
    width = (torch.minimum(x12, x22) - torch.maximum(x11, x21)).clamp(min=0)
    height = (torch.minimum(y12, y22) - torch.maximum(y11, y21)).clamp(min=0)
    inter = width * height
    return inter / ((x12 - x11) * (y12 - y11) + (x22 - x21) * (y22 - y21) - inter)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression: `[N, 4]`, `[N]` -> kept int64 indices by descending score."""
    order = torch.sort(scores, descending=True, stable=True).indices
    # torchvision compares the IoU, whatever its type, with the threshold as a double.
    overlaps = box_iou(boxes[order], boxes[order]).double() > iou_threshold
    alive = torch.ones_like(order, dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~overlaps[i, i + 1 :]
    return order[alive]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS of each class for itself; kept indices of all classes by descending score, stable."""
    kept = [torch.empty(0, dtype=torch.int64)]
    for label in idxs.unique():
        rows = torch.where(idxs == label)[0]
        kept.append(rows[nms(boxes[rows], scores[rows], iou_threshold)])
    rows = torch.cat(kept).sort().values
    return rows[torch.sort(scores[rows], descending=True, stable=True).indices]


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    *,
    counts: Tensor | None = None,
    groups: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """NMS of each image and group; the `max_output` best of each image, padded with -1."""
    batch, n = scores.shape
    indices = torch.full((batch, max_output), -1, dtype=torch.int64)
    kept = torch.zeros(batch, dtype=torch.int64)
    for b in range(batch):
        takes_part = torch.arange(n) < (n if counts is None else counts[b])
        if score_threshold is not None:
            takes_part &= scores[b] > score_threshold
        rows = torch.where(takes_part)[0]
        group = torch.zeros(n, dtype=torch.int64) if groups is None else groups[b]
        found = rows[batched_nms(boxes[b, rows], scores[b, rows], group[rows], iou_threshold)]
        kept[b] = min(len(found), max_output)
        indices[b, : kept[b]] = found[:max_output]
    return indices, kept


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of Bodla et al. (2017): select the best, decay the others, repeat."""
    iou = box_iou(boxes, boxes)
    alive = scores.to(iou.dtype)
    indices, selected = [], []
    while (survives := alive.to(scores.dtype) > score_threshold).any():
        best = int(torch.where(survives, alive, -torch.inf).argmax())
        indices.append(best)
        selected.append(alive[best].to(scores.dtype))
        if method == "linear":
            weight = torch.where(iou[best].double() > iou_threshold, 1 - iou[best], 1.0)
        else:
            weight = torch.where(iou[best] > 0, torch.exp(-(iou[best] ** 2) / sigma), 1.0)
        alive = alive * weight
        alive[best] = -torch.inf
    return torch.tensor(indices, dtype=torch.int64), torch.tensor(selected, dtype=scores.dtype)


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_counts: Tensor,
    *,
    high: float,
    low: float,
    allow_low_quality: bool = True,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels the anchors of each image in turn, from the matrix of all IoUs."""
    batch, num_anchors = len(gt_boxes), anchors.shape[-2]
    dtype = torch.promote_types(anchors.dtype, torch.float32)
    matched_gt = torch.empty((batch, num_anchors), dtype=torch.int64)
    max_iou = torch.empty((batch, num_anchors), dtype=dtype)
    for b in range(batch):
        image_anchors = anchors if anchors.dim() == 2 else anchors[b]
        takes_part = torch.ones(num_anchors, dtype=torch.bool)
        if valid is not None:
            takes_part = valid if valid.dim() == 1 else valid[b]
        iou = box_iou(gt_boxes[b, : gt_counts[b]], image_anchors).nan_to_num(nan=0.0)
        iou[:, ~takes_part] = 0
        # A row of zeros stands for the background, and loses every tie.
        best, best_gt = torch.cat([iou, iou.new_zeros(1, num_anchors)]).max(dim=0)
        matched = torch.where(best >= high, best_gt, torch.where(best < low, -1, -2))
        if allow_low_quality and len(iou):
            gt_best = (
                iou.max(dim=1, keepdim=True).values if num_anchors else iou.new_zeros(len(iou), 1)
            )
            claimed = ((iou == gt_best) & (gt_best > 0)).any(dim=0)
            matched = torch.where(claimed, best_gt, matched)
        matched_gt[b] = torch.where(takes_part, matched, -2)
        max_iou[b] = best
    return matched_gt, max_iou


def generate_proposals(
    objectness: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_size: float,
    anchors_per_level: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The RPN's proposals of one image after the other, as torchvision's `filter_proposals`."""
    batch, num_anchors = objectness.shape
    dtype = torch.promote_types(objectness.dtype, torch.float32)
    proposals = torch.zeros((batch, post_nms_top_n, 4), dtype=dtype)
    scores = torch.zeros((batch, post_nms_top_n), dtype=dtype)
    counts = torch.zeros(batch, dtype=torch.int64)
    sizes = anchors_per_level or [num_anchors]
    first_anchors = [sum(sizes[:level]) for level in range(len(sizes))]
    for b in range(batch):
        rows, levels = [], []
        for index, (first, size) in enumerate(zip(first_anchors, sizes, strict=True)):
            logits = objectness[b, first : first + size]
            best = torch.sort(logits, descending=True, stable=True).indices[:pre_nms_top_n]
            rows.append(first + best)
            levels.append(torch.full_like(best, index))
        row, level = torch.cat(rows), torch.cat(levels)
        score = objectness[b, row].to(dtype).sigmoid()
        box = decode_boxes(deltas[b, row].to(dtype), anchors[row].to(dtype))
        height, width = image_sizes[b].tolist()
        box[:, 0::2] = box[:, 0::2].clamp(0, width)
        box[:, 1::2] = box[:, 1::2].clamp(0, height)
        big = (
            (box[:, 2] - box[:, 0] >= min_size) & (box[:, 3] - box[:, 1] >= min_size) & (score >= 0)
        )
        box, score, level = box[big], score[big], level[big]
        kept = batched_nms(box, score, level, nms_threshold)[:post_nms_top_n]
        counts[b] = len(kept)
        proposals[b, : len(kept)] = box[kept]
        scores[b, : len(kept)] = score[kept]
    return proposals, scores, counts


def roi_pool(
    input: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float
) -> tuple[Tensor, Tensor]:
    """Max pooling, `[N, C, H, W]`, `[K, 5]` -> `[K, C, h, w]` and the cell that won, or -1."""
    rows, columns = output_size
    height, width = input.shape[2:]
    lowest = torch.finfo(input.dtype).min
    shape = (len(rois), input.shape[1], rows, columns)
    output, argmax = input.new_zeros(shape), torch.full(shape, -1, dtype=torch.int32)
    for n, roi in enumerate(rois):
        if not roi.isfinite().all():
            continue
        scaled = roi[1:] * spatial_scale
        x1, y1, x2, y2 = (scaled.sign() * (scaled.abs() + 0.5).floor()).long().tolist()
        y_begin, y_end = pool_bins(y1, y2, rows, height, rois.dtype)
        x_begin, x_end = pool_bins(x1, x2, columns, width, rois.dtype)
        for ph in range(rows):
            for pw in range(columns):
                ys = torch.arange(y_begin[ph], y_end[ph])
                xs = torch.arange(x_begin[pw], x_end[pw])
                cells = (ys[:, None] * width + xs).flatten()
                if len(cells) == 0:
                    continue
                features = input[int(roi[0])].flatten(1)[:, cells]
                best, at = torch.where(features > lowest, features, lowest).max(dim=1)
                output[n, :, ph, pw] = best
                argmax[n, :, ph, pw] = torch.where(best > lowest, cells[at], -1).int()
    return output, argmax


def pool_bins(
    start: int, end: int, bins: int, size: int, dtype: torch.dtype
) -> tuple[list[int], list[int]]:
    """First cell and end of each bin of the cells start..end, clipped to the map."""
    extent = torch.tensor(max(end - start + 1, 1), dtype=dtype) / bins
    index = torch.arange(bins, dtype=dtype)
    begin = start + (index * extent).floor().long()
    stop = start + ((index + 1) * extent).ceil().long()
    return begin.clamp(0, size).tolist(), stop.clamp(0, size).tolist()


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Mean of bilinear samples, `[N, C, H, W]`, `[K, 5]` -> `[K, C, h, w]`."""
    rows, columns = output_size
    output = input.new_zeros(len(rois), input.shape[1], rows, columns)
    for n, roi in enumerate(rois):
        if not roi.isfinite().all():
            continue
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0)
        by_row = align_weights(y1, y2, rows, input.shape[2], sampling_ratio, aligned)
        by_column = align_weights(x1, x2, columns, input.shape[3], sampling_ratio, aligned)
        output[n] = by_row @ input[int(roi[0])] @ by_column.T
    return output


def multiscale_roi_align(
    inputs: list[Tensor],
    boxes: list[Tensor],
    output_size: tuple[int, int],
    spatial_scales: list[float],
    sampling_ratio: int,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """RoIAlign of each image's boxes, `[L_i, 4]`, from the level of equation 1 of the FPN paper."""
    lowest = round(-math.log2(spatial_scales[0]))
    output = []
    for image, image_boxes in enumerate(boxes):
        for x1, y1, x2, y2 in image_boxes.tolist():
            area = (x2 - x1) * (y2 - y1)
            if not 0 <= area < math.inf:  # NaN, infinite, or one side negative
                output.append(inputs[0].new_zeros(1, inputs[0].shape[1], *output_size))
                continue
            side = max(math.sqrt(area), 1e-30) / canonical_scale
            level = canonical_level + math.floor(math.log2(side) + 1e-6) - lowest
            level = min(max(level, 0), len(inputs) - 1)
            roi = image_boxes.new_tensor([[image, x1, y1, x2, y2]])
            args = (output_size, spatial_scales[level], sampling_ratio, False)
            output.append(roi_align(inputs[level], roi, *args))
    return torch.cat(output)


def align_weights(
    start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """`[bins, size]`: how much each cell on one axis counts in each bin."""
    extent = end - start if aligned else (end - start).clamp(min=1)
    samples = sampling_ratio if sampling_ratio > 0 else max(int((extent / bins).ceil()), 0)
    if samples == 0:
        return start.new_zeros(bins, size)
    step = extent / bins
    offsets = (torch.arange(samples, dtype=start.dtype) + 0.5) * step / samples
    at = start + torch.arange(bins, dtype=start.dtype)[:, None] * step + offsets  # [bins, samples]
    on_map = (at >= -1) & (at <= size)
    distance = (at.clamp(0, size - 1)[..., None] - torch.arange(size)).abs()
    return ((1 - distance).clamp(min=0) * on_map[..., None]).mean(dim=1)
