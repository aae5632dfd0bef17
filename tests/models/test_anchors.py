"""Anchors: the numbers of the paper's and py-faster-rcnn's world, and torchvision's."""

import pytest
import torch

from fastrpn.models import AnchorGenerator, ModelConfig
from fastrpn.models.anchors import cell_anchors, inside_image

SIZES, RATIOS = (128.0, 256.0, 512.0), (0.5, 1.0, 2.0)

# generate_anchors.py of py-faster-rcnn prints these nine.
PY_FASTER_RCNN = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def nine(convention="py-faster-rcnn"):
    return AnchorGenerator([SIZES], RATIOS, [16], convention)


def test_py_faster_rcnn_anchors():
    assert cell_anchors(SIZES, RATIOS, 16, "py-faster-rcnn").tolist() == PY_FASTER_RCNN


def test_grid_of_39_by_51_has_1989_positions_and_17901_anchors():
    anchors = nine()([(39, 51)])
    assert len(anchors) == 17_901 == 9 * 1_989
    assert anchors[0].tolist() == PY_FASTER_RCNN[0]
    assert anchors[9].tolist() == [-84 + 16, -40, 99 + 16, 55]  # columns run before rows
    assert anchors[9 * 51].tolist() == [-84, -40 + 16, 99, 55 + 16]


@pytest.mark.parametrize(
    ("grid", "size", "inside"), [((38, 50), (600, 800), 5944), ((38, 63), (600, 1000), 8151)]
)
def test_anchors_inside_the_image(grid, size, inside):
    mask = inside_image(nine()([grid]), torch.tensor([size, (10, 10)]))
    assert mask.sum(1).tolist() == [inside, 0]


def test_paper_anchors_keep_area_ratio_and_centre():
    anchors = nine("paper")([(2, 3)]).view(2, 3, 9, 4)
    width, height = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    area = torch.tensor([128.0**2, 256.0**2, 512.0**2]).repeat(3)
    torch.testing.assert_close(width * height, area.expand(2, 3, 9))
    ratio = torch.tensor(RATIOS).repeat_interleave(3)
    torch.testing.assert_close(height / width, ratio.expand(2, 3, 9))
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2
    torch.testing.assert_close(centre[1, 2], torch.tensor([40.0, 24.0]).expand(9, 2))


@pytest.mark.parametrize("shape", [(192, 256), (800, 1088)])  # (800, 1088): 61 pixels, not 64
def test_torchvision_anchors(shape):
    anchor_utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    image_list = pytest.importorskip("torchvision.models.detection.image_list")
    sizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    strides = (4, 8, 16, 32, 64)
    maps = [torch.zeros(1, 1, -(-shape[0] // s), -(-shape[1] // s)) for s in strides]
    theirs = anchor_utils.AnchorGenerator(sizes, (RATIOS,) * 5)
    expected = theirs(image_list.ImageList(torch.zeros(1, 3, *shape), [shape]), maps)[0]
    ours = AnchorGenerator(sizes, RATIOS, strides, "torchvision")
    assert torch.equal(ours([tuple(m.shape[-2:]) for m in maps], shape), expected)


def test_a_grid_is_placed_once():
    generator = nine()
    assert generator([(4, 5)]) is generator([(4, 5)])
    assert len(generator([(5, 4)])) == 180


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="sizes has 1 levels but strides has 2"):
        AnchorGenerator([SIZES], RATIOS, [8, 16])
    with pytest.raises(ValueError, match="same number of sizes"):
        AnchorGenerator([(8.0,), (16.0, 32.0)], RATIOS, [8, 16])
    with pytest.raises(ValueError, match="unknown anchor convention 'caffe'"):
        AnchorGenerator([SIZES], RATIOS, [16], "caffe")
    with pytest.raises(ValueError, match="grid_sizes has 2 levels, the generator 1"):
        nine()([(1, 1), (2, 2)])


@pytest.mark.parametrize(
    ("convention", "first"),
    [
        ("paper", [3, -2, 13, 18]),
        ("torchvision", [-5, -10, 5, 10]),
        ("py-faster-rcnn", [3, -2, 12, 17]),  # both corners belong to the box
    ],
)
def test_shapes_instead_of_sizes_and_ratios(convention, first):
    generator = AnchorGenerator((), (), (16,), convention, shapes=[[(10, 20), (33, 7)]])
    assert generator.per_position == 2
    assert generator([(1, 2)])[0].tolist() == first
    assert generator([(1, 2)])[2].tolist() == [
        x + d for x, d in zip(first, (16, 0) * 2, strict=True)
    ]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="same number of shapes"):
        AnchorGenerator((), (), (8, 16), shapes=[[(10, 20)], []])
    with pytest.raises(ValueError, match="anchor_shapes must be positive, got 10 x 0"):
        ModelConfig(anchor_shapes=(((10, 0),),))
