"""The CUDA kernels, run on the CPU by the harness, against the CPU kernels."""

import torch
from torch import Tensor

from fastrpn import ops
from tests.cuda_on_cpu import harness

from .boxes import random_boxes
from .proposals import matching, proposing, same_proposals
from .rois import gradient, pooling, sampling
from .suppression import gaussian_selection, padded_arguments, scene, soft_options
from .trial import Trial, difference

MOST = 80  # boxes: the harness runs every thread of a block


def _run(trial: Trial, op: str, **inputs) -> dict[str, Tensor]:
    trial.calls += 1
    given = {name: value for name, value in inputs.items() if value is not None}
    return harness.run(op, seeds=2, misalign=trial.choose(0, 0, 1, 3), **given)


def cuda_box_iou(trial: Trial) -> None:
    dtype = trial.float_dtype()
    sets = [random_boxes(trial, trial.size(largest=MOST)).to(dtype) for _ in range(2)]
    outputs = _run(trial, "box_iou", boxes1=sets[0], boxes2=sets[1])
    trial.require(difference(outputs["iou"], ops.box_iou(*sets)))


def cuda_nms(trial: Trial) -> None:
    batch = trial.choose(0, 1, 2)
    boxes, scores = scene(trial, batch, n=trial.size(largest=MOST))
    tensors, numbers = padded_arguments(trial, *scores.shape)
    outputs = _run(trial, "nms", boxes=boxes, scores=scores, **tensors, **numbers)
    wanted = ops.nms_padded(boxes, scores, **tensors, **numbers)
    trial.require(difference((outputs["indices"], outputs["kept"]), wanted))


def cuda_soft_nms(trial: Trial) -> None:
    boxes, scores = scene(trial, n=trial.size(largest=MOST))
    options = soft_options(trial)
    numbers = {name: value for name, value in options.items() if name != "method"}
    gaussian = options["method"] == "gaussian"
    outputs = _run(trial, "soft_nms", boxes=boxes, scores=scores, gaussian=gaussian, **numbers)
    kept = int(outputs["kept"])
    got = outputs["indices"][:kept], outputs["decayed"][:kept]
    if gaussian:
        thresholds = options["sigma"], options["score_threshold"]
        trial.require(gaussian_selection(got, boxes, scores, *thresholds))
    else:
        trial.require(difference(got, ops.soft_nms(boxes, scores, **options)))


def cuda_match_anchors(trial: Trial) -> None:
    (anchors, gt_boxes, gt_counts, valid), numbers = matching(trial)
    outputs = _run(
        trial, "match_anchors",
        anchors=anchors, gt_boxes=gt_boxes, gt_counts=gt_counts, valid=valid, **numbers,
    )  # fmt: skip
    wanted = ops.match_anchors(anchors, gt_boxes, gt_counts, valid=valid, **numbers)
    trial.require(difference((outputs["matched_gt"], outputs["max_iou"]), wanted))


def cuda_generate_proposals(trial: Trial) -> None:
    tensors, numbers = proposing(trial)
    levels = numbers["anchors_per_level"] or [len(tensors[2])]
    names = ("objectness", "deltas", "anchors", "image_sizes")
    outputs = _run(
        trial, "generate_proposals",
        **dict(zip(names, tensors, strict=True)),
        **numbers | {"anchors_per_level": torch.tensor(levels)},
    )  # fmt: skip
    got = tuple(outputs[name] for name in ("proposals", "scores", "counts"))
    wanted = ops.generate_proposals(*tensors, **numbers)
    trial.require(same_proposals(trial, tensors, numbers, ops.generate_proposals)(got, wanted))


def cuda_roi_pool(trial: Trial) -> None:
    features, rois, (height, width), scale = _pooling(trial)
    sizes = dict(zip(("batch", "channels", "height", "width"), features.shape, strict=True))
    output, argmax = torch.ops.fastrpn.roi_pool_argmax(features, rois, scale, height, width)
    channels_last = _is_channels_last(features)
    common = sizes | {
        "rois": rois, "pooled_height": height, "pooled_width": width, "spatial_scale": scale,
        "channels_last": channels_last,
    }  # fmt: skip
    outputs = _run(trial, "roi_pool", features=_raw(features), argmax=1, **common)
    wanted = _raw(output, channels_last), _raw(argmax, channels_last)
    trial.require(difference((outputs["output"], outputs["argmax"]), wanted))
    outputs = _run(trial, "roi_pool", features=_raw(features), **common)
    trial.require(difference(outputs["output"], wanted[0]))
    grad = gradient(trial, output.shape, output.dtype)
    wanted = torch.ops.fastrpn.roi_pool_backward(grad, rois, argmax, scale, *sizes.values())
    inputs = {"grad_output": _raw(grad, channels_last), "argmax": _raw(argmax, channels_last)}
    outputs = _run(trial, "roi_pool", **inputs, **common)
    trial.require(difference(outputs["grad_features"], _raw(wanted, channels_last)))


def cuda_roi_align(trial: Trial) -> None:
    features, rois, (height, width), scale = _pooling(trial)
    options, channels_last = sampling(trial), _is_channels_last(features)
    common = options | {
        "rois": rois, "heights": torch.tensor([features.shape[2]]),
        "widths": torch.tensor([features.shape[3]]),
        "scales": torch.tensor([scale], dtype=torch.float64),
        "batch": features.shape[0], "channels": features.shape[1],
        "pooled_height": height, "pooled_width": width, "channels_last": channels_last,
    }  # fmt: skip
    outputs = _run(trial, "roi_align", features0=_raw(features), **common)
    numbers = options["sampling_ratio"], options["aligned"]
    wanted = torch.ops.fastrpn.roi_align([features], rois, None, [scale], height, width, *numbers)
    trial.require(difference(outputs["output"], _raw(wanted, channels_last)))
    grad = gradient(trial, wanted.shape, wanted.dtype)
    outputs = _run(trial, "roi_align", grad_output=_raw(grad, channels_last), **common)
    sizes = features.shape[0], [features.shape[2]], [features.shape[3]]
    (wanted,) = torch.ops.fastrpn.roi_align_backward(
        grad, rois, None, [scale], *numbers, *sizes, channels_last
    )
    trial.require(difference(outputs["grad_features0"], _raw(wanted, channels_last)))


def _pooling(trial: Trial):
    """Small maps in either layout; without elements nothing is launched."""
    features, rois, size, scale = pooling(trial)
    features = features[:, :24, :16, :16]
    if features.numel() == 0 or len(rois) == 0:
        features, rois = features.new_zeros(1, 3, 4, 5), rois.new_zeros(1, 5)
    rois = rois[:6]
    rois[:, 0] = rois[:, 0].clamp(max=features.shape[0] - 1)
    layout = trial.choose(torch.contiguous_format, torch.channels_last)
    return features.contiguous(memory_format=layout), rois, size, scale


def _is_channels_last(tensor: Tensor) -> bool:
    return not tensor.is_contiguous()


def _raw(tensor: Tensor, channels_last: bool | None = None) -> Tensor:
    """The elements in memory order."""
    if _is_channels_last(tensor) if channels_last is None else channels_last:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten()
