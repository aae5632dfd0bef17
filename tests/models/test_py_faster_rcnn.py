"""The RPN under the py-faster-rcnn preset beside that code's formulas, which count inclusive
pixels: a box from x1 to x2 is x2 - x1 + 1 wide."""

import pytest
import torch

from fastrpn.models import faster_rcnn
from fastrpn.models.anchors import extents, inside_image
from fastrpn.models.structures import ImageBatch, RPNOutput
from fastrpn.ops import box_iou, decode_boxes, encode_boxes


@pytest.fixture(scope="module")
def rpn():
    torch.manual_seed(0)
    return faster_rcnn("tiny", 2, "py-faster-rcnn", rpn_levels=1, roi_levels=1).rpn.eval()


@pytest.fixture
def anchors(rpn):
    """Inclusive corners, [A, 4]."""
    return rpn.anchors([(38, 50)])


def propose(rpn, objectness, anchors, batch):
    """What the RPN makes of anchors that it leaves as they are, for each image."""
    anchors = torch.tensor(anchors)
    objectness = torch.tensor(objectness).expand(len(batch.sizes), -1)
    deltas = torch.zeros(*objectness.shape, 4)
    found = rpn.propose(RPNOutput(objectness, deltas, anchors, [len(anchors)]), batch)
    return [boxes[:n].tolist() for boxes, n in zip(found.boxes, found.counts, strict=True)]


def inclusive_size(boxes):
    return boxes[:, 2:] - boxes[:, :2] + 1


def test_anchors_are_matched_and_encoded_by_their_inclusive_widths(anchors):
    corner = torch.rand(len(anchors), 2) * 400
    truth = torch.cat([corner, corner + torch.randint(20, 200, (len(anchors), 2))], dim=1).round()
    size, own_size = inclusive_size(truth), inclusive_size(anchors)
    centre, own_centre = truth[:, :2] + 0.5 * size, anchors[:, :2] + 0.5 * own_size
    expected = torch.cat([(centre - own_centre) / own_size, (size / own_size).log()], dim=1)
    covered, objects = (extents(boxes, "py-faster-rcnn") for boxes in (anchors, truth))
    torch.testing.assert_close(encode_boxes(objects, covered), expected)

    end = torch.minimum(truth[:9, None, 2:], anchors[None, :, 2:])
    start = torch.maximum(truth[:9, None, :2], anchors[None, :, :2])
    inter = (end - start + 1).clamp(min=0).prod(2)
    iou = inter / (size[:9].prod(1)[:, None] + own_size.prod(1) - inter)
    torch.testing.assert_close(box_iou(objects[:9], covered), iou)


def test_deltas_are_applied_to_inclusive_widths(anchors):
    deltas = torch.randn(len(anchors), 4) / 4
    size = inclusive_size(anchors)
    centre = deltas[:, :2] * size + anchors[:, :2] + 0.5 * size
    half = 0.5 * deltas[:, 2:].exp() * size
    expected = torch.cat([centre - half, centre + half], dim=1)
    decoded = decode_boxes(deltas, extents(anchors, "py-faster-rcnn"))
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(600, 800), (600, 799), (607, 800)])
def test_anchors_inside_end_before_the_width(anchors, size):
    x1, y1, x2, y2 = anchors.unbind(1)
    expected = (x1 >= 0) & (y1 >= 0) & (x2 < size[1]) & (y2 < size[0])
    inside = inside_image(extents(anchors, "py-faster-rcnn"), torch.tensor([size]))[0]
    assert torch.equal(inside, expected) and inside.any()


def test_the_model_uses_them(rpn):
    batch = ImageBatch(torch.zeros(1, 3, 32, 48), torch.tensor([[32, 48]]))
    maps = [torch.zeros(1, 48, 8, 12), torch.zeros(1, 96, 4, 6)]
    anchors = rpn.predict(maps, batch).anchors
    assert torch.equal(anchors, extents(rpn.anchors([(4, 6)]), "py-faster-rcnn"))
    assert torch.equal(extents(anchors, "paper"), anchors)


SLIM, WIDE, LOW = [100.0, 100, 120, 200], [300.0, 100, 340, 200], [500.0, 300, 600, 310]


def test_the_smallest_proposal_counts_pixels_of_the_original_image(rpn):
    def found(*scales):
        batch = ImageBatch(None, torch.tensor([[600, 800]] * 2), torch.tensor(scales))
        return propose(rpn, [3.0, 2, 1], [SLIM, WIDE, LOW], batch)

    assert found(1.0, 2.0) == [[SLIM, WIDE], [WIDE]]  # at least 16 and 32 pixels
    assert found(0.625, 0.5) == [[SLIM, WIDE, LOW]] * 2  # at least 10 and 8


def test_small_boxes_take_no_place_among_the_best(rpn):
    batch = ImageBatch(None, torch.tensor([[600, 800]]), torch.ones(1))
    config = rpn.config
    rpn.config = config.override(rpn_pre_nms_top_n_test=1)
    found = propose(rpn, [3.0, 2], [LOW, WIDE], batch)
    rpn.config = config
    assert found == [[WIDE]]


def test_the_transform_tells_how_much_it_resized():
    model = faster_rcnn("tiny", 2, "py-faster-rcnn", rpn_levels=1, roi_levels=1)
    batch = model.transform([torch.rand(3, 300, 400), torch.rand(3, 400, 1000)])
    assert batch.scales.tolist() == pytest.approx([2, 1])
    batch = faster_rcnn("tiny", 2).transform([torch.rand(3, 90, 80)])
    assert batch.scales.tolist() == pytest.approx([160 / 90], rel=0.01)
