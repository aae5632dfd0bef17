"""Pictures: the right size, ink where the boxes are, arguments left alone."""

import cv2
import numpy as np
import pytest
import torch

from fastrpn.drawing import (
    contact_sheet,
    draw_anchors,
    draw_detections,
    draw_proposals,
    draw_target,
    plot_losses,
    plot_pr_curves,
)
from fastrpn.drawing.canvas import GREY, PALETTE, colour_of
from fastrpn.images import read_image, write_image

CLASSES = ["__background__", "cat", "dog"]
BOXES = torch.tensor([[20.0, 30, 60, 80], [70, 40, 110, 70]])
LABELS = torch.tensor([1, 2])


def _picture(height=100, width=130):
    return np.full((height, width, 3), 128, np.uint8)


def _has(image, colour, tolerance=3):
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) <= tolerance).any())


def test_detections_are_outlined_in_the_colour_of_their_class():
    image = _picture()
    drawn = draw_detections(image, BOXES, LABELS, torch.tensor([0.9, 0.8]), CLASSES)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 128).all()
    for box, label in zip(BOXES.int().tolist(), LABELS.tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert _has(drawn[y2 - 1 : y2, x1 + 5 : x2 - 5], colour_of(label))  # the lower edge
        inside = drawn[y1 + 22 : y2 - 4, x1 + 4 : x2 - 4]
        assert (inside == 128).all()


def test_takes_tensors_arrays_and_lists():
    image = _picture()
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    expected = draw_detections(image, BOXES, LABELS)
    assert (draw_detections(tensor, BOXES.numpy(), LABELS.tolist()) == expected).all()
    assert (draw_detections(image, BOXES.requires_grad_(), LABELS) == expected).all()


def test_no_boxes_leave_the_image_as_it_is():
    assert (draw_detections(_picture(), torch.zeros(0, 4), [], []) == 128).all()


@pytest.mark.parametrize("box", [(-50, -50, 500, 500), (5, 5, 5, 5), (np.nan, 0, np.inf, 1e12)])
def test_odd_boxes_do_not_crash(box):
    draw_detections(_picture(), [box], [1], [0.5], CLASSES)


def test_the_best_detection_lies_on_top():
    same = torch.tensor([[20.0, 30, 60, 80]] * 2)
    drawn = draw_detections(_picture(), same, LABELS, torch.tensor([0.9, 0.1]))
    assert _has(drawn[79], colour_of(1)) and not _has(drawn[79], colour_of(2))


def test_ignored_ground_truth_is_grey():
    target = {"boxes": BOXES.detach(), "labels": LABELS, "ignore": torch.tensor([False, True])}
    drawn = draw_target(_picture(), target, CLASSES)
    assert _has(drawn[69, 75:105], GREY) and not _has(drawn, colour_of(2))  # its lower edge
    assert _has(drawn[79, 25:55], colour_of(1))


def test_contact_sheet_hides_low_scores():
    target = {"boxes": BOXES.detach()[:0], "labels": LABELS[:0]}
    found = {"boxes": BOXES.detach(), "labels": LABELS, "scores": torch.tensor([0.9, 0.2])}
    images = [_picture(), _picture(130, 100), _picture()]
    sheet = contact_sheet(images, [target] * 3, [found] * 3, CLASSES, columns=2)
    assert sheet.shape[0] > 2 * 320 and sheet.shape[1] > 4 * 246
    assert _has(sheet, colour_of(1)) and not _has(sheet, colour_of(2))
    both = contact_sheet(images, [target] * 3, [found] * 3, CLASSES, min_score=0.1)
    assert _has(both, colour_of(2))


def test_contact_sheet_needs_as_many_of_each():
    with pytest.raises(ValueError, match="1 images, 0 targets, 0 detections"):
        contact_sheet([_picture()], [], [], CLASSES)


def test_proposals_show_two_panels_and_the_best_only():
    few = draw_proposals(_picture(), BOXES, [0.9, 0.1], BOXES[:1], [0.9], long_side=200)
    assert few.shape[1] > 2 * 200
    left, right = few[:, : few.shape[1] // 2], few[:, few.shape[1] // 2 :]
    assert (left != right[:, : left.shape[1]]).any()
    best = draw_proposals(_picture(), BOXES, [0.9, 0.1], BOXES[:1], [0.9], limit=1, long_side=200)
    assert (best[24:, 8:200] != few[24:, 8:200]).any()
    with pytest.raises(ValueError, match="2 boxes but 1 scores before NMS"):
        draw_proposals(_picture(), BOXES, [0.9], BOXES, [0.9, 0.1])


def _nine_anchors():
    sizes = [(s * r**0.5, s / r**0.5) for s in (128, 256, 512) for r in (0.5, 1, 2)]
    return np.array([(320 - w / 2, 320 - h / 2, 320 + w / 2, 320 + h / 2) for w, h in sizes])


def test_nine_anchors_have_three_colours_and_all_fit():
    picture = draw_anchors(_nine_anchors(), image_size=(600, 800))
    assert picture.shape[0] > 724 and picture.shape[1] > 800  # 724 is the tallest anchor
    for colour in PALETTE[:3]:
        assert _has(picture, colour)
    assert not any(_has(picture, colour) for colour in PALETTE[3:])
    with pytest.raises(ValueError, match="at least one anchor"):
        draw_anchors([])


def test_curves_are_written_as_png(tmp_path):
    history = [{"step": i, "loss_a": 1 / (i + 1), "loss_b": 0.1} for i in range(50)]
    del history[7]["loss_b"]
    curves = {
        "cat": {"recall": [0.5, 1], "precision": [1, 0.8]},
        "dog": {"recall": [], "precision": []},
    }
    losses = plot_losses(history, tmp_path / "deep" / "losses.png")
    pr = plot_pr_curves(curves, tmp_path / "pr.png", {"cat": 0.9, "dog": 0.0})
    for path in (losses, pr):
        assert cv2.imread(str(path)).std() > 5
    with pytest.raises(ValueError, match="history"):
        plot_losses([], tmp_path / "none.png")


def test_pictures_are_written_whole_or_not_at_all(tmp_path):
    path = write_image(tmp_path / "a.png", _picture())
    assert (read_image(path) == 128).all()
    with pytest.raises(cv2.error):
        write_image(tmp_path / "a.nonsense", _picture())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"boxes must be \[N,4\]"):
        draw_detections(_picture(), torch.zeros(2, 5), LABELS)
    with pytest.raises(ValueError, match="2, 1, 2"):
        draw_detections(_picture(), BOXES, LABELS[:1])
