"""Which anchors and proposals are trained on what, on cases worked out by hand."""

import math

import pytest
import torch

from fastrpn.models import PRESETS, faster_rcnn
from fastrpn.models import roi_head as roi_head_module
from fastrpn.models import rpn as rpn_module
from fastrpn.models.structures import GroundTruth, ImageBatch, Proposals, RPNOutput


def one_object(box, label=2, slots=2):
    boxes = torch.zeros(1, slots, 4)
    boxes[0, 0] = torch.tensor(box)
    labels = torch.zeros(1, slots, dtype=torch.int64)
    labels[0, 0] = label
    return GroundTruth(boxes, labels, torch.tensor([1]))


def captured(monkeypatch, module, function):
    """Records the arguments of a loss function."""
    calls = []
    original = getattr(module, function)

    def record(*args, **kwargs):
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, record)
    return calls


def rpn_targets(monkeypatch, anchors, ground_truth, size=(100, 100), **options):
    calls = captured(monkeypatch, rpn_module, "rpn_losses")
    model = faster_rcnn("tiny", 3, **options)
    count = len(anchors)
    output = RPNOutput(
        torch.arange(float(count))[None],
        torch.zeros(1, count, 4),
        torch.tensor(anchors),
        [count],
    )
    batch = ImageBatch(torch.zeros(1, 3, *size), torch.tensor([size]))
    model.rpn.losses(output, batch, ground_truth)
    ((objectness, _, targets, (_, positive, weights)), kwargs) = calls[0]
    sampled = objectness[0][weights[0] > 0].long().tolist()  # the logit is the anchor's row
    return dict(zip(sampled, positive[0].tolist(), strict=False)), targets[0], kwargs


ANCHORS = [
    [0.0, 0.0, 10.0, 10.0],  # the object itself
    [0.0, 0.0, 10.0, 20.0],  # IoU 0.5: neither
    [0.0, 0.0, 10.0, 40.0],  # IoU 0.25: negative
    [50.0, 50.0, 60.0, 60.0],  # negative
    [-5.0, 0.0, 10.0, 10.0],  # crosses the border, IoU 0.67
    [95.0, 95.0, 105.0, 105.0],  # crosses the border, negative
]


def test_anchor_labels_and_cross_boundary_anchors(monkeypatch):
    truth = one_object([0.0, 0.0, 10.0, 10.0])
    labels, targets, _ = rpn_targets(
        monkeypatch, ANCHORS, truth, rpn_train_cross_boundary=False, rpn_batch_size=6
    )
    assert labels == {0: True, 2: False, 3: False}
    assert torch.equal(targets[0], torch.zeros(4))
    labels, _, _ = rpn_targets(
        monkeypatch, ANCHORS, truth, rpn_train_cross_boundary=True, rpn_batch_size=6
    )
    assert labels == {0: True, 2: False, 3: False, 5: False}


def test_the_best_anchor_of_an_object_is_positive_whatever_its_overlap(monkeypatch):
    truth = one_object([0.0, 0.0, 10.0, 40.0])
    anchors = ANCHORS[:2] + ANCHORS[3:4]
    labels, targets, _ = rpn_targets(monkeypatch, anchors, truth, rpn_batch_size=3)
    assert labels == {1: True, 0: False, 2: False}  # IoU 0.5 beats 0.25
    # tx = 0, ty = (20 - 10) / 20, tw = log(10 / 10), th = log(40 / 20)
    assert targets[0].tolist() == pytest.approx([0.0, 0.5, 0.0, math.log(2)])


def test_normalizers_of_the_presets(monkeypatch):
    truth = one_object([0.0, 0.0, 10.0, 10.0])
    anchors = ANCHORS[:1] * 24  # two positions of twelve anchors
    _, _, kwargs = rpn_targets(monkeypatch, anchors, truth, rpn_normalizer="paper")
    assert kwargs["normalizers"] == (256, 2)
    assert PRESETS["paper"].rpn_box_weight == 10.0
    _, _, kwargs = rpn_targets(monkeypatch, anchors, truth, rpn_normalizer="sampled")
    assert kwargs["normalizers"] is None


def box_targets(monkeypatch, proposals, ground_truth, counts=None, **options):
    calls = captured(monkeypatch, roi_head_module, "box_head_losses")
    seen = {}
    model = faster_rcnn("tiny", 3, **options)

    def predict(features, boxes):
        seen["boxes"] = boxes
        return torch.zeros(*boxes.shape[:2], 3), torch.zeros(*boxes.shape[:2], 3, 4)

    monkeypatch.setattr(model.roi_head, "predict", predict)
    boxes = torch.tensor([proposals])
    counts = torch.tensor([len(proposals) if counts is None else counts])
    model.roi_head.losses([], Proposals(boxes, torch.zeros(boxes.shape[:2]), counts), ground_truth)
    ((_, _, labels, targets, weights), _) = calls[0]
    rows = weights[0] > 0
    found = zip(seen["boxes"][0][rows].tolist(), labels[0][rows].tolist(), strict=True)
    return sorted((tuple(box), label) for box, label in found), targets[0][rows], labels[0][rows]


PROPOSALS = [
    [0.0, 0.0, 10.0, 20.0],  # IoU 0.5: foreground, as fg >= 0.5
    [0.0, 0.0, 10.0, 40.0],  # 0.25: background
    [0.0, 0.0, 10.0, 200.0],  # 0.05: background only if low is 0
    [50.0, 50.0, 60.0, 60.0],  # 0
]


@pytest.mark.parametrize("low", [0.1, 0.0])
def test_region_labels(monkeypatch, low):
    found, targets, labels = box_targets(
        monkeypatch,
        PROPOSALS,
        one_object([0.0, 0.0, 10.0, 10.0]),
        box_negative_iou=(low, 0.5),
        box_append_gt=False,
        box_positive_fraction=0.5,
    )
    background = PROPOSALS[1:2] if low else PROPOSALS[1:]
    assert found == sorted([(tuple(PROPOSALS[0]), 2), *((tuple(b), 0) for b in background)])
    # ty = 10 * (5 - 10) / 20, th = 5 * log(10 / 20): divided by the deviations .1 and .2
    assert targets[labels == 2][0].tolist() == pytest.approx([0, -2.5, 0, 5 * math.log(0.5)])


def test_ground_truth_joins_the_proposals_and_padding_does_not(monkeypatch):
    found, _, _ = box_targets(
        monkeypatch,
        PROPOSALS,
        one_object([0.0, 0.0, 10.0, 10.0]),
        counts=1,
        box_negative_iou=(0.0, 0.5),
        box_positive_fraction=1.0,
    )
    assert found == [((0.0, 0.0, 10.0, 10.0), 2), ((0.0, 0.0, 10.0, 20.0), 2)]
