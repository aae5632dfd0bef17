"""Fast R-CNN alone: the model on proposals that it is given."""

import pytest
import torch

from fastrpn.analysis import rpn_proposals
from fastrpn.models import faster_rcnn

BOX_LOSSES = {"loss_classifier", "loss_box_reg"}
IMAGES = [torch.rand(3, 64, 96), torch.rand(3, 80, 70)]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])},
    {"boxes": torch.tensor([[10.0, 20, 60, 70]]), "labels": torch.tensor([2])},
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"rpn_post_nms_top_n_test": 20, "box_batch_size": 16, "box_score_threshold": 0.2}
    return faster_rcnn("tiny", 4, min_size=64, max_size=96, **options)


def test_the_rpns_own_proposals_give_the_models_detections(model):
    model.eval()
    own = [boxes for boxes, _ in rpn_proposals(model, IMAGES, limit=20)]
    detections = zip(model(IMAGES), model(IMAGES, proposals=own), strict=True)
    for expected, found in detections:
        assert len(found["labels"]) > 0 and torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-2)


def test_no_proposals_no_detections(model):
    detections = model.eval()(IMAGES, proposals=[torch.zeros(0, 4)] * 2)
    assert [len(detection["boxes"]) for detection in detections] == [0, 0]


def test_training_leaves_the_rpn_out(model):
    given = [torch.tensor([[0.0, 0, 50, 50], [8, 8, 30, 60]]), torch.zeros(0, 4)]
    losses = model(IMAGES, TARGETS, given)
    assert set(losses) == BOX_LOSSES
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.rpn.parameters())
    assert all(p.grad is not None for p in model.roi_head.parameters())


@pytest.mark.parametrize(
    ("proposals", "error", "message"),
    [
        ([torch.zeros(1, 4)], ValueError, "proposals has 1 entries for 2 images"),
        ([torch.zeros(1, 4), torch.zeros(4)], ValueError, r"proposals\[1\] must be \[K, 4\]"),
        ([torch.zeros(1, 4), [[0, 0, 1, 1]]], TypeError, r"proposals\[1\] must be .* got list"),
        ([torch.zeros(1, 4), torch.zeros(1, 4).long()], TypeError, r"\[1\] .* got torch.int64"),
    ],
)
def test_unsound_proposals(model, proposals, error, message):
    with pytest.raises(error, match=message):
        model(IMAGES, TARGETS, proposals)
