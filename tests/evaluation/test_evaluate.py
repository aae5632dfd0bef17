"""Average precision on cases worked out by hand and against an independent implementation."""

import json

import numpy as np
import pytest
import torch

from fastrpn.evaluation import evaluate, evaluate_detections
from fastrpn.evaluation.coco_ap import coco_precision
from fastrpn.evaluation.voc_ap import pairwise_iou, voc_curve

CLASSES = ["__background__", "cat", "dog"]
A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 70, 70)


def detected(*entries):
    """An image's detections from (box, score, label)."""
    return {
        "boxes": torch.tensor([e[0] for e in entries], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([e[1] for e in entries], dtype=torch.float32),
        "labels": torch.tensor([e[2] for e in entries], dtype=torch.int64),
    }


def truth(*entries, ignore=None):
    """An image's ground truth from (box, label)."""
    target = {
        "boxes": torch.tensor([e[0] for e in entries], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([e[1] for e in entries], dtype=torch.int64),
    }
    if ignore is not None:
        target["ignore"] = torch.tensor(ignore)
    return target


def test_perfect_detections():
    targets = [truth((A, 1), (B, 2)), truth((B, 1))]
    found = [detected((A, 0.9, 1), (B, 0.8, 2)), detected((B, 0.7, 1))]
    result = evaluate_detections(found, targets, CLASSES)
    for key in ("AP", "AP50", "AP75", "voc_ap_11pt", "voc_ap_area"):
        assert result[key] == pytest.approx(1)
        assert result["per_class"]["dog"][key] == pytest.approx(1)
    assert result["num_images"] == 2
    assert result["per_class"]["cat"]["num_objects"] == 2
    json.dumps(result, allow_nan=False)


def test_curve_and_areas_by_hand():
    """True, false, true over three objects: recall 1/3 1/3 2/3, precision 1 1/2 2/3."""
    targets = [truth((A, 1), (B, 1), (FAR, 1))]
    found = [detected((A, 0.9, 1), ((80, 80, 90, 90), 0.8, 1), (B, 0.7, 1))]
    curve = voc_curve(found, targets, label=1)
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert curve.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.ap_area == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Recall 0, .1, .2, .3 reach precision 1; .4, .5, .6 reach 2/3; the rest nothing.
    assert curve.ap_11pt == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_second_detection_of_an_object_is_false():
    curve = voc_curve([detected((A, 0.9, 1), (A, 0.8, 1))], [truth((A, 1))], 1)
    assert curve.precision.tolist() == [1, 0.5]


def test_a_detection_is_matched_in_its_own_image_and_class():
    targets = [truth((A, 1)), truth((B, 2))]
    assert voc_curve([detected(), detected((A, 0.9, 1))], targets, 1).ap_area == 0
    assert voc_curve([detected((A, 0.9, 2)), detected()], targets, 1).ap_area == 0


def test_iou_of_exactly_one_half_counts():
    half = (0, 0, 10, 5)
    curve = voc_curve([detected((half, 0.9, 1))], [truth((A, 1))], 1)
    assert curve.ap_area == 1
    assert voc_curve([detected((half, 0.9, 1))], [truth((A, 1))], 1, 0.51).ap_area == 0


def test_ignored_objects_count_neither_way():
    targets = [truth((A, 1), (B, 1), ignore=[False, True])]
    for found in (
        [detected((A, 0.9, 1))],  # a miss of the ignored one costs nothing
        [detected((B, 0.95, 1), (B, 0.94, 1), (A, 0.9, 1))],  # nor do hits, however many
    ):
        result = evaluate_detections(found, targets, CLASSES)
        for key in ("voc_ap_11pt", "voc_ap_area", "AP50", "AP"):
            assert result[key] == pytest.approx(1)
        assert result["per_class"]["cat"]["num_objects"] == 1


def test_a_class_with_nothing_but_ignored_objects_is_left_out():
    targets = [truth((A, 1), (B, 2), ignore=[False, True])]
    result = evaluate_detections([detected((A, 0.9, 1), (B, 0.8, 2))], targets, CLASSES)
    assert [result["AP50"], result["voc_ap_area"]] == pytest.approx([1, 1])
    assert result["per_class"]["dog"]["AP50"] is None
    assert result["per_class"]["dog"]["voc_ap_11pt"] is None
    assert list(result["curves"]) == ["cat"]


def test_no_detections_and_no_ground_truth():
    nothing_found = evaluate_detections([detected()], [truth((A, 1))], CLASSES)
    assert nothing_found["AP50"] == nothing_found["voc_ap_11pt"] == 0
    nothing_there = evaluate_detections([detected((A, 0.9, 1))], [truth()], CLASSES)
    assert nothing_there["AP50"] is None and nothing_there["voc_ap_area"] is None


def test_false_alarms_on_images_without_objects_cost_precision():
    targets = [truth((A, 1)), truth()]
    quiet = [detected((A, 0.8, 1)), detected()]
    noisy = [detected((A, 0.8, 1)), detected((A, 0.9, 1))]
    assert evaluate_detections(quiet, targets, CLASSES)["AP50"] == pytest.approx(1)
    result = evaluate_detections(noisy, targets, CLASSES)
    assert [result["AP50"], result["voc_ap_area"]] == pytest.approx([0.5, 0.5])


def test_coco_counts_the_thresholds_that_an_iou_reaches():
    """IoU 0.72 passes 0.5, 0.55, 0.6, 0.65 and 0.7: five of ten."""
    targets = [truth((A, 1))]
    result = evaluate_detections([detected(((0, 0, 10, 7.2), 0.9, 1))], targets, CLASSES)
    assert result["AP50"] == pytest.approx(1)
    assert result["AP75"] == pytest.approx(0)
    assert result["AP"] == pytest.approx(0.5)


def test_coco_101_points_by_hand():
    """One of two objects is found: precision 1 up to recall 0.5, that is at 51 of 101 points."""
    coco = coco_precision([detected((A, 0.9, 1))], [truth((A, 1), (B, 1))], num_classes=3)
    assert coco.ap(0.5) == pytest.approx(51 / 101)
    assert coco.ap(0.5, label=1) == pytest.approx(51 / 101)
    assert np.isnan(coco.ap(label=2))


def test_the_first_detection_of_the_first_image_can_match():
    """pycocotools takes a match with id 0 for none."""
    assert coco_precision([detected((A, 1.0, 1))], [truth((A, 1))], 2).ap() == pytest.approx(1)


def test_areas_recall_and_many_detections_are_pycocotools():
    """Against the twelve numbers that pycocotools itself sums up, at COCO's 100 detections."""
    rng = np.random.default_rng(5)
    targets, detections = [], []
    for _ in range(6):
        corners = rng.uniform(0, 300, (150, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 160, (150, 2))], axis=1)
        labels = rng.integers(1, 3, 150)
        targets.append(truth(*zip(boxes.tolist(), labels.tolist(), strict=True)))
        moved = boxes + rng.normal(0, 3, boxes.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores = rng.uniform(0, 1, 150).round(2)
        detections.append(detected(*zip(moved.tolist(), scores, labels, strict=True)))
    result = evaluate_detections(detections, targets, CLASSES)
    expected = _summary_of_pycocotools(detections, targets)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [result[name] for name in names] == pytest.approx(expected[:6], abs=1e-12)
    assert result["AR"] == pytest.approx(expected[8], abs=1e-12)
    assert len({round(value, 6) for value in expected[3:6]}) == 3


def _summary_of_pycocotools(detections, targets):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(images, extra):
        number = 0
        for image, entry in enumerate(images):
            for i, (x1, y1, x2, y2) in enumerate(entry["boxes"].double().tolist()):
                number += 1
                size = x2 - x1, y2 - y1
                yield {
                    **{"id": number, "image_id": image, "category_id": int(entry["labels"][i])},
                    **{"bbox": [x1, y1, *size], "area": size[0] * size[1], **extra(entry, i)},
                }

    truth_file = COCO()
    truth_file.dataset = {
        "images": [{"id": i} for i in range(len(targets))],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": list(entries(targets, lambda *_: {"iscrowd": 0})),
        "info": {},
    }
    truth_file.createIndex()
    results = list(entries(detections, lambda entry, i: {"score": float(entry["scores"][i])}))
    evaluation = COCOeval(truth_file, truth_file.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("most, ap50", [(100, 51 / 101), (150, 76 / 101), (200, 1.0)])
def test_as_many_detections_count_as_are_asked_for(most, ap50):
    """200 perfect detections in an image."""
    boxes = [(20 * i, 20 * j, 20 * i + 10, 20 * j + 10) for i in range(20) for j in range(10)]
    targets = [truth(*((box, 1) for box in boxes))]
    found = [detected(*((box, 1 - 0.001 * i, 1) for i, box in enumerate(boxes)))]
    result = evaluate_detections(found, targets, CLASSES, max_detections=most)
    assert result["AP50"] == pytest.approx(ap50) and result["AR"] == pytest.approx(most / 200)


def test_no_detection_is_no_number_of_detections():
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        evaluate_detections([], [], CLASSES, max_detections=0)


def test_coco_is_quiet(capsys):
    coco_precision([detected((A, 1.0, 1))], [truth((A, 1))], 2)
    assert capsys.readouterr().out == ""


def _random_case(rng):
    """Jittered ground truth plus strays; scores are rounded so that they tie."""
    detections, targets = [], []
    for _ in range(rng.integers(1, 6)):
        count = rng.integers(0, 5)
        corner, extent = rng.uniform(0, 60, (count, 2)), rng.uniform(8, 40, (count, 2))
        boxes = np.concatenate([corner, corner + extent], 1).round()
        labels = rng.integers(1, 3, count)
        ignore = rng.random(count) < 0.2
        targets.append(truth(*zip(boxes.tolist(), labels.tolist(), strict=True), ignore=ignore))
        found = []
        for box, label in [*zip(boxes, labels, strict=True)] * 2 + [(np.array(FAR), 1)]:
            if rng.random() < 0.7:
                found.append((box + rng.integers(-4, 5, 4), rng.integers(1, 20) / 20, int(label)))
        detections.append(detected(*((b.tolist(), s, n) for b, s, n in found)))
    return detections, targets


def _slow_voc(detections, targets, label):
    """Written from the text of the definition, one detection and one point at a time."""
    ranked = sorted(
        (
            (-float(score), image, rank)
            for image, d in enumerate(detections)
            for rank, score in enumerate(d["scores"])
            if d["labels"][rank] == label
        ),
    )
    positives = sum(
        int(n == label and not i)
        for t in targets
        for n, i in zip(t["labels"], t["ignore"], strict=True)
    )
    used, points, true, false = set(), [], 0, 0
    for _, image, rank in ranked:
        x1, y1, x2, y2 = (float(v) for v in detections[image]["boxes"][rank])
        best, best_iou = None, -1.0
        for g, (gx1, gy1, gx2, gy2) in enumerate(targets[image]["boxes"].tolist()):
            if targets[image]["labels"][g] != label:
                continue
            overlap = max(0, min(x2, gx2) - max(x1, gx1)) * max(0, min(y2, gy2) - max(y1, gy1))
            union = (x2 - x1) * (y2 - y1) + (gx2 - gx1) * (gy2 - gy1) - overlap
            if overlap / union > best_iou:
                best, best_iou = g, overlap / union
        if best is not None and best_iou >= 0.5 and targets[image]["ignore"][best]:
            continue
        if best is not None and best_iou >= 0.5 and (image, best) not in used:
            used.add((image, best))
            true += 1
        else:
            false += 1
        points.append((true / positives if positives else float("nan"), true / (true + false)))
    if not positives:
        return float("nan"), float("nan")
    eleven = sum(max([p for r, p in points if r >= t / 10], default=0) for t in range(11)) / 11
    area, last = 0.0, 0.0
    for recall, _ in points:
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return eleven, area


def test_voc_against_the_slow_implementation():
    rng = np.random.default_rng(0)
    compared = []
    for _ in range(300):
        detections, targets = _random_case(rng)
        for label in (1, 2):
            curve = voc_curve(detections, targets, label)
            expected = _slow_voc(detections, targets, label)
            assert (curve.ap_11pt, curve.ap_area) == pytest.approx(expected, nan_ok=True)
            compared.append(expected[1])
    assert 0.2 < np.nanmean(compared) < 0.95  # the cases are neither trivial nor hopeless


def test_iou_of_empty_boxes_is_zero():
    boxes = np.array([[1.0, 1, 1, 1], [0, 0, 2, 2]])
    assert pairwise_iou(boxes, boxes).tolist() == [[0, 0], [0, 1]]


class _Images(torch.utils.data.Dataset):
    classes = CLASSES

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((3, 8, 8), index / 10), truth((A, 1 + index % 2))


class _Knowing(torch.nn.Module):
    """Reads the answer from the brightness; wrong in training mode."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        assert not torch.is_grad_enabled()
        labels = [1 + round(float(image.max()) * 10) % 2 for image in images]
        return [detected((FAR if self.training else A, 0.5, label)) for label in labels]


def test_evaluate_runs_the_model_in_eval_mode_and_restores_it():
    model = _Knowing().train()
    result = evaluate(model, _Images(), batch_size=2, progress=False)
    assert result["AP50"] == pytest.approx(1)
    assert model.calls == [2, 2, 1]
    assert model.training


def test_evaluate_takes_any_callable():
    model = _Knowing().eval()
    result = evaluate(lambda images: model(images), _Images(), progress=False)
    assert result["AP50"] == pytest.approx(1)


def test_a_model_gets_the_proposals_of_the_targets():
    class WithProposals(_Images):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image, {**target, "proposals": torch.full((index, 4), float(index))}

    given = []

    def detector(images, proposals):
        given.extend(proposals)
        return [detected() for _ in images]

    evaluate(detector, WithProposals(), batch_size=2, progress=False)
    assert [boxes.tolist() for boxes in given] == [[[float(n)] * 4] * n for n in range(5)]


def test_bad_arguments():
    with pytest.raises(ValueError, match="1 detections for 2 targets"):
        evaluate_detections([detected()], [truth(), truth()], CLASSES)
    with pytest.raises(ValueError, match=r"detections\[0\] has labels 0 to 0"):
        evaluate_detections([detected((A, 0.9, 0))], [truth()], CLASSES)
    with pytest.raises(ValueError, match=r"targets\[0\] has labels 3"):
        evaluate_detections([detected()], [truth((A, 3))], CLASSES)
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(_Knowing(), _Images(), batch_size=0)
