import numpy as np
import pytest
import torch
from torch import nn

from fastrpn.analysis import best_anchor_iou, dataset_boxes, design_anchors, kmeans_anchors
from fastrpn.analysis.anchor_recall import greedy_order, recall
from fastrpn.analysis.kmeans_anchors import shape_iou
from fastrpn.models import AnchorGenerator, BoxHead, FasterRCNN, ModelConfig, faster_rcnn
from fastrpn.models.anchors import inside_image
from fastrpn.models.config import TINY
from fastrpn.ops import box_iou

RNG = np.random.default_rng(0)


class Boxes:
    """A data set of given boxes on images without content."""

    def __init__(self, boxes, size=(128, 192), ignore=None):
        self.boxes, self.size, self.ignore = boxes, size, ignore

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, index):
        target = {"boxes": torch.tensor(self.boxes[index], dtype=torch.float32).reshape(-1, 4)}
        if self.ignore:
            target["ignore"] = torch.tensor(self.ignore[index])
        return torch.zeros(3, *self.size), target


def _random_boxes(count, height, width):
    corner = RNG.uniform(0, 0.8, (count, 2)) * (width, height)
    size = RNG.uniform(8, 0.7 * min(height, width), (count, 2))
    boxes = np.hstack([corner, np.minimum(corner + size, (width, height))])
    return torch.tensor(boxes, dtype=torch.float32)


@pytest.mark.parametrize("convention", ["paper", "torchvision", "py-faster-rcnn"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("height", "width"), [(120, 200), (64, 90)])
def test_best_iou_equals_a_search_of_the_whole_grid(convention, inside, height, width):
    generator = AnchorGenerator([(16.0, 40), (64, 110)], (0.5, 1.0, 2.0), (8, 16), convention)
    grids = [(-(-height // s), -(-width // s)) for s in (8, 16)]
    anchors = generator(grids)
    boxes = _random_boxes(60, height, width)
    sizes = torch.tensor([[float(height), width]]).expand(60, 2)
    found = best_anchor_iou(boxes, sizes, generator.cells, (8, 16), inside_image=inside)

    iou = box_iou(boxes, anchors)
    if inside:
        iou[:, ~inside_image(anchors, sizes[:1])[0]] = 0
    levels = iou.split([rows * columns * 6 for rows, columns in grids], dim=1)
    expected = torch.cat([level.view(60, -1, 6).amax(1) for level in levels], dim=1)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-5)


def test_best_iou_of_images_of_several_sizes():
    cells = torch.tensor([[[-4.0, -4, 12, 12]]])  # -4 + 11 * 8 = 84
    boxes = torch.tensor([[84.0, 84, 100, 100]]).repeat(2, 1)
    sizes = torch.tensor([[99.0, 99], [100, 100]])
    iou = best_anchor_iou(boxes, sizes, cells, (8,), inside_image=True)
    # In 99 pixels the last anchor inside stands at 76 and shares 8 x 8 pixels.
    assert iou[:, 0].tolist() == pytest.approx([64 / (512 - 64), 1.0])


@pytest.mark.parametrize(
    ("cells", "boxes"), [(torch.zeros(3, 4), torch.zeros(2, 4)), (torch.zeros(1, 3, 4), [[0.0]])]
)
def test_best_iou_refuses_wrong_shapes(cells, boxes):
    with pytest.raises(ValueError, match="expected"):
        best_anchor_iou(torch.as_tensor(boxes), torch.ones(2, 2), cells, (8,))


def test_recall_and_greedy_order():
    iou = torch.tensor([[0.9, 0.7, 0.0], [0.1, 0.7, 0.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.3]])
    assert recall(iou, 0.7) == 0.75
    assert recall(iou, 0.71) == 0.5
    assert greedy_order(iou, 0.7) == [1, 2, 0]


def test_kmeans_finds_separate_clusters():
    truth = np.array([[10, 20], [60, 30], [50, 120]])
    sizes = np.concatenate([shape * RNG.uniform(0.95, 1.05, (40, 2)) for shape in truth])
    found = kmeans_anchors(sizes, 3, seed=1)
    np.testing.assert_allclose(found, truth, rtol=0.02)


def test_kmeans_is_deterministic_and_improves_with_k():
    sizes = RNG.lognormal(3.5, 0.5, (300, 2))
    anchors = [kmeans_anchors(sizes, k, seed=3) for k in (1, 2, 4, 8)]
    assert (anchors[3] == kmeans_anchors(sizes, 8, seed=3)).all()
    quality = [shape_iou(sizes, a).max(axis=1).mean() for a in anchors]
    assert quality == sorted(quality) and quality[3] > quality[0] + 0.1
    areas = anchors[3].prod(axis=1)
    assert (areas[1:] >= areas[:-1]).all()


def test_kmeans_beats_random_choices():
    sizes = RNG.lognormal(3.5, 0.5, (300, 2))
    ours = shape_iou(sizes, kmeans_anchors(sizes, 5)).max(axis=1).mean()
    random = [
        shape_iou(sizes, sizes[RNG.choice(300, 5, replace=False)]).max(axis=1).mean()
        for _ in range(50)
    ]
    assert ours > max(random)


def test_kmeans_of_as_many_anchors_as_shapes_is_exact():
    sizes = np.array([[10.0, 20], [10, 20], [30, 30], [70, 20]])
    assert kmeans_anchors(sizes, 3).tolist() == [[10, 20], [30, 30], [70, 20]]


@pytest.mark.parametrize(
    ("sizes", "k", "message"),
    [
        ([[1.0, 2], [1, 2]], 2, "1 distinct"),
        ([[1.0, 2]], 0, "k must be"),
        ([[1.0, 0]], 1, "positive"),
        ([[1.0, np.nan]], 1, "finite"),
        (np.zeros((0, 2)), 1, "sizes must be"),
        ([1.0, 2.0], 1, "sizes must be"),
    ],
)
def test_kmeans_refuses(sizes, k, message):
    with pytest.raises(ValueError, match=message):
        kmeans_anchors(sizes, k)


def test_dataset_boxes_are_those_the_model_sees():
    dataset = Boxes([[[10, 20, 50, 60], [0, 0, 5, 5]], []], ignore=[[False, True], []])
    boxes, sizes = dataset_boxes(dataset, ModelConfig(min_size=300, max_size=400))
    model = faster_rcnn("tiny", 2, min_size=300, max_size=400)
    batch = model.transform([dataset[0][0]])
    assert sizes.tolist() == batch.sizes.tolist()
    target = dataset[0][1] | {"labels": torch.ones(2, dtype=torch.int64)}
    truth = model.transform.ground_truth([target], [dataset[0][0]], batch)
    torch.testing.assert_close(boxes, truth.boxes[0, :1])
    assert dataset_boxes(dataset).boxes.tolist() == [[10, 20, 50, 60]]
    with pytest.raises(ValueError, match="no box"):
        dataset_boxes(Boxes([[], []]))


def _pedestrians(count=200):
    """Upright boxes, the founding example of anchors one could leave out."""
    height = RNG.uniform(30, 90, count)
    size = np.stack([height * RNG.uniform(0.35, 0.45, count), height], axis=1)
    corner = RNG.uniform(0, 1, (count, 2)) * ((192, 128) - size)
    return Boxes(np.hstack([corner, corner + size])[:, None].tolist())


def test_design_saves_anchors_on_upright_boxes():
    design = design_anchors(_pedestrians(), 3, model="tiny", validation=_pedestrians(), largest=4)
    assert design.shapes.shape == (1, 3, 2)
    assert (design.shapes[..., 1] > 2 * design.shapes[..., 0]).all()
    assert design.designed[1][2] > design.default[1][-1] + 0.1
    assert design.saved(0.7) >= 6 and design.needed(0.7) <= 3
    assert len(design.rows) == 4 and design.rows[0]["anchors"] == 1
    for default in design.default:  # adding anchors never hurts
        assert list(default) == sorted(default)


def test_a_model_takes_the_designed_anchors():
    design = design_anchors(_pedestrians(), 3, model="tiny", largest=3)
    model = faster_rcnn("tiny", 2, **design.model_options)
    assert model.rpn.head.cls_logits.out_channels == 3
    cells = model.rpn.anchors.cells
    torch.testing.assert_close(cells[..., 2:] - cells[..., :2], design.shapes, rtol=0, atol=0.05)
    centres = (cells[..., :2] + cells[..., 2:]) / 2
    torch.testing.assert_close(centres, torch.full_like(centres, 4.0))  # of an 8 x 8 cell
    assert len(model.eval()([torch.rand(3, 96, 128)])) == 1
    again = design_anchors(_pedestrians(), 3, model=model, largest=3)
    torch.testing.assert_close(again.default_shapes, design.shapes[0], rtol=0, atol=0.05)


class TwoLevels(nn.Module):
    strides = (8, 16)
    out_channels = 4

    def forward(self, image):
        raise NotImplementedError


def test_design_for_levels():
    config = TINY.override(anchor_sizes=((24.0,), (64.0,)), rpn_levels=None)
    model = FasterRCNN(TwoLevels(), BoxHead(4 * config.roi_size**2, 8), 2, config)
    design = design_anchors(_pedestrians(), 4, model=model, largest=6)
    assert design.shapes.shape == (2, 2, 2)
    assert design.shapes[0].prod(1).max() < design.shapes[1].prod(1).min()
    assert design.numbers == (2, 4, 6)
    assert len(design.default_shapes) == 6
    with pytest.raises(ValueError, match="multiple of the 2"):
        design_anchors(_pedestrians(), 3, model=model)
