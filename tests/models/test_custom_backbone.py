"""Any network with strides as a backbone: torchvision's extractors and timm's."""

import pytest
import torch

from fastrpn.models import PRESETS, BackboneWithFPN, BoxHead, FasterRCNN, ModelConfig

CONFIG = {
    "min_size": 64,
    "max_size": 96,
    "rpn_pre_nms_top_n_train": 50,
    "rpn_post_nms_top_n_train": 20,
    "box_batch_size": 8,
}


def check_trains_and_detects(model):
    images = [torch.rand(3, 64, 96), torch.rand(3, 70, 60)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 9, 60, 60]]), "labels": torch.tensor([2])},
    ]
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    model.eval()
    model.config = model.config.override(box_score_threshold=0.0)
    with torch.no_grad():
        assert all(len(result["boxes"]) > 0 for result in model(images))


def test_one_map_of_a_torchvision_network():
    models = pytest.importorskip("torchvision.models")
    from torchvision.models.feature_extraction import create_feature_extractor

    network = models.mobilenet_v3_small(weights=None)
    backbone = create_feature_extractor(network, {"features.8": "c4"})
    backbone.out_channels, backbone.strides = 48, (16,)
    config = ModelConfig(anchor_sizes=((16.0, 32.0, 64.0),), box_negative_iou=(0.0, 0.5), **CONFIG)
    head = BoxHead(48 * config.roi_size**2, 32)
    check_trains_and_detects(FasterRCNN(backbone, head, num_classes=3, config=config))


def test_a_pyramid_on_a_torchvision_network():
    models = pytest.importorskip("torchvision.models")
    from torchvision.models.feature_extraction import create_feature_extractor

    network = models.resnet18(weights=None)
    layers = {f"layer{i}": f"c{i + 1}" for i in range(1, 5)}
    body = create_feature_extractor(network, layers)
    backbone = BackboneWithFPN(body, [64, 128, 256, 512], [4, 8, 16, 32], out_channels=32)
    config = PRESETS["torchvision"].override(**CONFIG)
    head = BoxHead(32 * config.roi_size**2, 32)
    check_trains_and_detects(FasterRCNN(backbone, head, num_classes=3, config=config))


def test_a_pyramid_on_a_timm_network():
    timm = pytest.importorskip("timm")
    body = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3, 4))
    info = body.feature_info
    backbone = BackboneWithFPN(body, info.channels(), info.reduction(), out_channels=32)
    config = PRESETS["torchvision"].override(**CONFIG)
    head = BoxHead(32 * config.roi_size**2, 32)
    check_trains_and_detects(FasterRCNN(backbone, head, num_classes=3, config=config))


def test_several_maps_need_roi_align():
    models = pytest.importorskip("torchvision.models")
    backbone = BackboneWithFPN(models.resnet18(), [64, 128], [4, 8])
    config = PRESETS["torchvision"].override(roi_op="roi_pool", anchor_sizes=((8,), (16,), (32,)))
    with pytest.raises(
        ValueError, match=r"roi_pool pools from one level, got strides \(4, 8, 16\)"
    ):
        FasterRCNN(backbone, BoxHead(256 * 49, 32), 3, config)
