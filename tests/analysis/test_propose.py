import cv2
import numpy as np
import pytest
import torch

from fastrpn.analysis import (
    proposal_recall,
    propose_dataset,
    rpn_proposals,
    selective_search,
)
from fastrpn.data import ProposalSet
from fastrpn.models import faster_rcnn
from fastrpn.ops import box_iou

OBJECT = [10.0, 10, 20, 20]
HALF = [10.0, 10, 20, 16]  # IoU 0.6 with it
FAR = [50.0, 50, 60, 60]


def _boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_recall_by_hand():
    proposals = [_boxes(FAR, HALF, OBJECT), _boxes(OBJECT), _boxes()]
    targets = [
        {"boxes": _boxes(OBJECT)},
        {"boxes": _boxes(OBJECT, FAR), "ignore": torch.tensor([False, True])},
        {"boxes": _boxes(FAR)},
    ]
    result = proposal_recall(proposals, targets, counts=(1, 2, 3, 100))
    third = 1 / 3
    assert result.recall == (
        pytest.approx((third, 2 * third, 2 * third, 2 * third)),
        pytest.approx((third, third, 2 * third, 2 * third)),
    )
    assert result.objects == 3
    assert result.proposals_per_image == pytest.approx(4 / 3)
    assert result.rows("ours")[0] == {
        "proposals": "ours",
        "IoU": 0.5,
        "1": "33.3%",
        "2": "66.7%",
        "3": "66.7%",
        "100": "66.7%",
    }


def test_recall_is_a_loop_over_objects():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5, 60, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(5, 60, 2, generator=generator) * 40], dim=2)
    proposals, targets = list(boxes[:, :50]), [{"boxes": b} for b in boxes[:, 50:]]
    result = proposal_recall(proposals, targets, counts=(7, 50), iou_thresholds=(0.3,))
    for share, count in zip(result.recall[0], (7, 50), strict=True):
        met = [
            bool((box_iou(p[:count], t["boxes"][g : g + 1]) >= 0.3).any())
            for p, t in zip(proposals, targets, strict=True)
            for g in range(10)
        ]
        assert share == pytest.approx(np.mean(met))


def test_an_exact_threshold_counts():
    result = proposal_recall(
        [_boxes([0, 0, 1, 2])], [{"boxes": _boxes([0, 0, 1, 1])}], (1,), (0.5,)
    )
    assert result.recall == ((1.0,),)


def test_recall_refuses():
    target = {"boxes": _boxes(OBJECT)}
    with pytest.raises(ValueError, match="2 images, targets 1"):
        proposal_recall([_boxes(), _boxes()], [target])
    with pytest.raises(ValueError, match="counts"):
        proposal_recall([_boxes()], [target], counts=(0, 1))
    with pytest.raises(ValueError, match="no object"):
        proposal_recall([_boxes(OBJECT)], [{"boxes": _boxes()}])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return faster_rcnn("tiny", 2).eval()


def test_rpn_proposals_are_in_the_pixels_of_the_image(model):
    images = [torch.rand(3, 90, 120), torch.rand(3, 300, 200)]
    config = model.rpn.config
    together = rpn_proposals(model, images, limit=150)
    assert model.rpn.config is config
    for image, (boxes, scores) in zip(images, together, strict=True):
        assert boxes.shape == (len(scores), 4) and 100 < len(boxes) <= 150
        assert (scores[1:] <= scores[:-1]).all()
        height, width = image.shape[1:]
        assert boxes.min() >= 0
        assert boxes[:, 2].max() == pytest.approx(width, abs=1e-3)
        assert boxes[:, 3].max() == pytest.approx(height, abs=1e-3)
    few = rpn_proposals(model, images, limit=10)
    for (boxes, _), (all_boxes, _) in zip(few, together, strict=True):
        torch.testing.assert_close(boxes, all_boxes[:10])


def test_rpn_proposals_refuse(model):
    with pytest.raises(ValueError, match="limit"):
        rpn_proposals(model, [torch.rand(3, 64, 64)], limit=0)
    with pytest.raises(ValueError, match="training mode"):
        rpn_proposals(faster_rcnn("tiny", 2), [torch.rand(3, 64, 64)])


def test_propose_dataset(model, tmp_path):
    dataset = [(torch.rand(3, 96, 96), {"image_id": n}) for n in (4, 2)]
    proposals, seconds = propose_dataset(dataset, "rpn", model, limit=20)
    assert list(proposals) == [4, 2] and proposals.method == "rpn" and seconds > 0
    expected = rpn_proposals(model, [dataset[1][0]], limit=20)[0][0]
    loaded = ProposalSet.load(proposals.save(tmp_path / "rpn.npz"))
    torch.testing.assert_close(loaded[2][0], expected)
    with pytest.raises(ValueError, match="needs a model"):
        propose_dataset(dataset, "rpn")
    with pytest.raises(ValueError, match="method must be"):
        propose_dataset(dataset, "edge-boxes")


def _scene():
    """A dark rectangle on a bright ground."""
    image = np.full((80, 120, 3), 220, np.uint8)
    image[20:60, 30:90] = (30, 60, 150)
    return image


@pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")
def test_selective_search_finds_a_rectangle():
    boxes = selective_search(_scene())
    assert boxes.dtype == torch.float32 and (boxes[:, 2:] > boxes[:, :2]).all()
    found = proposal_recall([boxes], [{"boxes": _boxes([30, 20, 90, 60])}], (2000,), (0.9,))
    assert found.recall == ((1.0,),)
    as_tensor = torch.from_numpy(_scene()).permute(2, 0, 1) / 255
    assert torch.equal(selective_search(as_tensor), boxes)  # and it is deterministic
    assert len(selective_search(_scene(), limit=1)) == 1


@pytest.mark.skipif(hasattr(cv2, "ximgproc"), reason="OpenCV has its contributed modules")
def test_selective_search_says_what_is_missing():
    with pytest.raises(ImportError, match="pip install .*opencv-contrib-python"):
        selective_search(_scene())


def test_selective_search_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="mode"):
        selective_search(_scene(), mode="best")
