"""ZF: the grid of the founding example, its normalisation, frozen layers."""

import torch

from fastrpn.models import faster_rcnn
from fastrpn.models.backbones import ZF
from fastrpn.models.backbones.zf import LocalResponseNorm


def test_a_600x800_image_has_1989_positions_and_17901_anchors():
    with torch.device("meta"):
        grid = ZF()(torch.empty(1, 3, 600, 800)).shape
    assert grid == (1, 256, 39, 51)
    model = faster_rcnn("zf", 2)
    assert len(model.rpn.anchors([(39, 51)])) == 17_901 == 9 * 1_989


def test_response_is_normalised_over_3x3_positions_of_the_same_channel():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 5)
    result = LocalResponseNorm(alpha=0.5, beta=0.75)(x)
    for c in range(2):
        for i in range(4):
            for j in range(5):
                window = x[0, c, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                scale = (1 + 0.5 * window.square().sum() / 9) ** 0.75  # padding counts as zeros
                torch.testing.assert_close(result[0, c, i, j], x[0, c, i, j] / scale)


def test_frozen_convolutions():
    frozen = [n for n, p in ZF(freeze_below=3).named_parameters() if not p.requires_grad]
    assert frozen == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert all(p.requires_grad for p in faster_rcnn("zf", 2).parameters())


def test_the_detector_trains():
    torch.manual_seed(0)
    model = faster_rcnn("zf", 3, min_size=64, max_size=96, anchor_sizes=((16.0, 32.0, 64.0),))
    assert model.roi_head.box_head.fc6.weight.shape == (4096, 256 * 6 * 6)
    target = {"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 96)], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
