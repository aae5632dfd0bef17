"""Every public function x every kind of misuse: a TypeError or ValueError naming the argument."""

import math
import warnings

import numpy as np
import pytest
import torch

import fastrpn.numpy as fnp
from fastrpn import ops

BOXES = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [8, 8, 9, 9]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
LABELS = torch.tensor([0, 1, 0])
MAPS = torch.rand(2, 3, 8, 8)
ROIS = torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]])

GOOD = {
    "nms": {"boxes": BOXES, "scores": SCORES, "iou_threshold": 0.5},
    "batched_nms": {"boxes": BOXES, "scores": SCORES, "idxs": LABELS, "iou_threshold": 0.5},
    "nms_padded": {
        "boxes": BOXES[None], "scores": SCORES[None], "iou_threshold": 0.5, "max_output": 2,
        "counts": torch.tensor([3]), "groups": LABELS[None], "score_threshold": 0.1,
    },
    "soft_nms": {
        "boxes": BOXES, "scores": SCORES, "method": "linear", "sigma": 0.5, "iou_threshold": 0.3,
        "score_threshold": 0.001,
    },
    "box_iou": {"boxes1": BOXES, "boxes2": BOXES, "fmt": "xyxy"},
    "generalized_box_iou": {"boxes1": BOXES, "boxes2": BOXES},
    "distance_box_iou": {"boxes1": BOXES, "boxes2": BOXES, "eps": 1e-7},
    "complete_box_iou": {"boxes1": BOXES, "boxes2": BOXES, "eps": 1e-7},
    "box_area": {"boxes": BOXES, "fmt": "xyxy"},
    "box_convert": {"boxes": BOXES, "in_fmt": "xyxy", "out_fmt": "xywh"},
    "clip_boxes_to_image": {"boxes": BOXES, "size": (5, 5)},
    "remove_small_boxes": {"boxes": BOXES, "min_size": 1.0},
    "encode_boxes": {"boxes": BOXES, "anchors": BOXES, "weights": (1.0, 1.0, 1.0, 1.0)},
    "decode_boxes": {
        "deltas": BOXES, "anchors": BOXES, "weights": (1.0, 1.0, 1.0, 1.0), "clip": 4.0,
    },
    "match_anchors": {
        "anchors": BOXES, "gt_boxes": BOXES[None], "gt_counts": torch.tensor([2]), "high": 0.7,
        "low": 0.3, "valid": torch.ones(3, dtype=torch.bool),
    },
    "generate_proposals": {
        "objectness": SCORES[None], "deltas": BOXES[None] / 99, "anchors": BOXES,
        "image_sizes": torch.tensor([[9, 9]]), "pre_nms_top_n": 3, "post_nms_top_n": 3,
        "nms_threshold": 0.7, "min_size": 0.0, "anchors_per_level": [3],
    },
    "roi_pool": {"input": MAPS, "boxes": ROIS, "output_size": 2, "spatial_scale": 1.0},
    "roi_align": {
        "input": MAPS, "boxes": ROIS, "output_size": 2, "spatial_scale": 1.0, "sampling_ratio": 2,
    },
    "multiscale_roi_align": {
        "inputs": [MAPS, MAPS], "rois": ROIS,
        "roi_levels": torch.tensor([0, 1], dtype=torch.int32), "output_size": 2,
        "spatial_scales": [1.0, 0.5], "sampling_ratio": 2,
    },
}  # fmt: skip
COMPOSED = {name for name in GOOD if name.startswith(("box_", "clip", "remove"))} | {
    "generalized_box_iou", "distance_box_iou", "complete_box_iou",
}  # fmt: skip
CODING = {"encode_boxes", "decode_boxes"}


def wrong_tensors(op: str, name: str, value: torch.Tensor):
    """(kind, wrong value) for a tensor argument."""
    yield "None", None
    yield "a list", value.tolist()
    yield "an array", value.numpy()
    yield "a string", "boxes"
    yield "a number", 3
    yield "complex", value.to(torch.complex64)
    yield "float8", value.float().to(torch.float8_e4m3fn)
    yield "a scalar", value.flatten()[0]
    yield "nested", torch.nested.nested_tensor([value, value])
    yield "quantized", torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)
    if op != "box_area":  # torch subtracts columns of sparse tensors
        yield "sparse", value.to_sparse()
    if name != "idxs":
        yield "bool or not", value.long() if value.dtype == torch.bool else value.bool()
    if value.dim() > 1 and not name.startswith("input"):
        yield "last dimension", value[..., :-1]
        if name != "deltas":  # which may hold the boxes of many classes
            yield "flat", value.flatten()
    if value.is_floating_point() and op not in COMPOSED:
        yield "integers", value.long()
        if op not in CODING:
            yield "another dtype", value.double()
    if op not in COMPOSED | CODING:
        yield "rank", value[None, None]
    if op not in ("box_area", "box_convert", "clip_boxes_to_image", "remove_small_boxes"):
        yield "another device", value.to("meta")
    if op not in COMPOSED and name not in ("boxes", "rois", "anchors", "objectness", "input"):
        yield "length", torch.cat([value, value])


def wrong_numbers(name: str, value: object):
    """(kind, wrong value) for a number, a string, or a sequence of numbers."""
    yield "None", None
    yield "a list of strings", ["a", "b"]
    yield "a dict", {}
    if isinstance(value, str):
        yield from (("another string", "xyxyxy"), ("a number", 3), ("a tensor", SCORES))
        return
    yield "a string", "0.5"
    if isinstance(value, float | int):
        yield from (("complex", 1j), ("an array", np.zeros(2)))
        if name not in ("eps", "min_size", "clip"):  # which torch broadcasts
            yield "a tensor of many", SCORES
    if isinstance(value, float):
        yield from (("NaN", math.nan), ("huge", 10**400))
    elif isinstance(value, int):
        yield from (("a fraction", 2.5), ("NaN", math.nan), ("huge", 2**70), ("2^63", 2**63))
        if name != "sampling_ratio":
            yield "negative", -7
    else:
        yield from (("a number", 3), ("too few", value[:-1]), ("too many", value * 2))
        yield from (("NaN", [math.nan] * len(value)), ("Nones", [None] * len(value)))


WRONG_MAPS = {
    "None": None,
    "empty": [],
    "a number": 3,
    "a string": "ab",
    "strings": ["a", "b"],
    "dtypes": [MAPS, MAPS.double()],
    "arrays": [MAPS.numpy()] * 2,
    "ranks": [MAPS, MAPS[0]],
}
OPTIONAL = {"counts", "groups", "score_threshold", "valid", "anchors_per_level"}
# Messages about these arguments may name the one that they do not fit to.
PARTNERS = {
    "scores": "boxes", "boxes": "scores|input|anchors", "deltas": "anchors|objectness",
    "anchors": "gt_boxes|valid|objectness|boxes|deltas", "objectness": "deltas|anchors",
    "gt_boxes": "gt_counts|anchors", "rois": "boxes", "input": "boxes", "boxes1": "boxes2",
    "inputs": "spatial_scales", "spatial_scales": "spatial_scale", "high": "low", "low": "high",
}  # fmt: skip


def misuse():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested and quantized tensors are no longer new
        for op, arguments in GOOD.items():
            for name, value in arguments.items():
                if isinstance(value, torch.Tensor):
                    wrong = list(wrong_tensors(op, name, value))
                elif name == "inputs":
                    wrong = WRONG_MAPS.items()
                else:
                    wrong = wrong_numbers(name, value)
                for kind, bad in wrong:
                    if not (bad is None and name in OPTIONAL):
                        yield pytest.param(op, name, bad, id=f"{op}-{name}-{kind}")


@pytest.mark.parametrize("op", GOOD)
def test_the_good_arguments_are_good(op):
    getattr(ops, op)(**GOOD[op])


@pytest.mark.parametrize(("op", "name", "bad"), list(misuse()))
def test_misuse_is_refused_by_name(op, name, bad):
    names = "|".join(filter(None, (name, PARTNERS.get(name))))
    with pytest.raises((TypeError, ValueError), match=rf"^({names})\b.*:"):
        getattr(ops, op)(**{**GOOD[op], name: bad})


@pytest.mark.parametrize("op", ["nms", "batched_nms", "soft_nms", "box_iou"])
@pytest.mark.parametrize(
    "bad", [None, [[0.0]], BOXES, "x", 3, np.zeros(3, int), np.zeros((2, 2, 4))]
)
def test_arrays_are_checked(op, bad):
    arguments = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in GOOD[op].items()
        if name != "fmt"
    }
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and not (name == "idxs" and isinstance(bad, np.ndarray)):
            with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
                getattr(fnp, op)(**{**arguments, name: bad})


def test_the_message_says_what_was_given():
    with pytest.raises(TypeError, match="iou_threshold: expected a number, got str '0.5'"):
        ops.nms(BOXES, SCORES, "0.5")
    with pytest.raises(ValueError, match="max_output.*1180591620717411303424"):
        ops.nms_padded(BOXES[None], SCORES[None], 0.5, 2**70)
    with pytest.raises(ValueError, match="boxes: expected a strided tensor, got torch.sparse_coo"):
        ops.nms(BOXES.to_sparse(), SCORES, 0.5)


def test_another_error_stays_what_it_was(monkeypatch):
    """Only misuse is put into words: what the arguments cannot explain is raised as it came."""
    from fastrpn.ops._modes import leaf

    @leaf
    def fail(boxes: torch.Tensor, number: float) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        fail(BOXES, 0.5)
    with pytest.raises(TypeError, match="number: expected a number, got str 'x'"):
        fail(BOXES, "x")
    with pytest.raises(TypeError, match="missing 1 required"):
        fail(BOXES)
