"""The feature pyramid: torchvision's results, levels and strides."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from fastrpn.models.backbones import BackboneWithFPN, FeaturePyramid, ResNet

pyramids = pytest.importorskip("torchvision.ops.feature_pyramid_network")


@pytest.mark.parametrize("sizes", [[(32, 48), (16, 24), (8, 12)], [(25, 17), (13, 9), (7, 5)]])
def test_levels_are_torchvisions(sizes):
    torch.manual_seed(0)
    channels = [8, 16, 32]
    theirs = pyramids.FeaturePyramidNetwork(channels, 12, pyramids.LastLevelMaxPool())
    ours = FeaturePyramid(channels, 12)
    ours.load_state_dict({k.replace(".0.", ".", 1): v for k, v in theirs.state_dict().items()})
    maps = [torch.rand(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    with torch.no_grad():
        expected = theirs(OrderedDict((str(i), x) for i, x in enumerate(maps)))
        levels = ours(maps)
    assert list(levels) == list(expected) == ["0", "1", "2", "pool"]
    for name in levels:
        torch.testing.assert_close(levels[name], expected[name])


def test_a_pyramid_on_a_resnet():
    body = ResNet(18)
    backbone = BackboneWithFPN(body, body.channels, body.strides, out_channels=16)
    assert backbone.strides == (4, 8, 16, 32, 64) and backbone.out_channels == 16
    with torch.no_grad():
        levels = backbone(torch.rand(1, 3, 128, 64))
    for level, stride in zip(levels.values(), backbone.strides, strict=True):
        assert level.shape == (1, 16, 128 // stride, 64 // stride)


def test_channels_and_strides_must_fit():
    with pytest.raises(ValueError, match=r"in_channels \[8\] and strides \[4, 8\] differ"):
        BackboneWithFPN(nn.Identity(), [8], [4, 8])
    with pytest.raises(ValueError):  # two maps for three levels
        FeaturePyramid([8, 8, 8])([torch.rand(1, 8, 4, 4)] * 2)
