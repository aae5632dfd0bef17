"""What new models start with, and which parts of them rest, by preset."""

import pytest
import torch
from torch import nn

from fastrpn.models import faster_rcnn
from fastrpn.models.backbones import FrozenBatchNorm2d
from fastrpn.models.checkpoint import require_same_model
from fastrpn.training.config import TrainConfig
from fastrpn.training.setup import new_model

detection = pytest.importorskip("torchvision.models.detection")
LAYERS = ["rpn.head.conv", "rpn.head.cls_logits", "rpn.head.bbox_pred"]
LAYERS += [f"roi_head.{name}" for name in ("box_head.fc6", "box_head.fc7")]
LAYERS += [f"roi_head.box_predictor.{name}" for name in ("cls_score", "bbox_pred")]


def layer(model, name):
    if isinstance(model, detection.FasterRCNN):
        name = name.replace("roi_head.", "roi_heads.").replace("head.conv", "head.conv.0.0")
    return model.get_submodule(name)


def test_the_torchvision_preset_starts_as_torchvision_does():
    torch.manual_seed(0)
    ours = faster_rcnn("resnet50_fpn", 91)
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for name in LAYERS:
        for part in ("weight", "bias"):
            a, b = (getattr(layer(model, name), part).detach() for model in (ours, theirs))
            if not b.any():
                assert not a.any(), name
                continue
            # Standard deviations of n normal or uniform numbers differ by less than 4 / sqrt(n).
            assert abs(a.std() / b.std() - 1) < 4 / b.numel() ** 0.5, (name, part)
            assert abs(kurtosis(a) - kurtosis(b)) < 30 / b.numel() ** 0.5, (name, part)


def kurtosis(x):
    """3 for a Gaussian, 1.8 for uniform numbers."""
    x = (x - x.mean()).double()
    return (x**4).mean() / (x**2).mean() ** 2


@pytest.mark.parametrize("preset", [None, "paper", "py-faster-rcnn"])
def test_the_papers_presets_start_with_the_papers_gaussians(preset):
    torch.manual_seed(0)
    model = faster_rcnn("zf", 91, preset)
    layers = (*("rpn.head.conv", "rpn.head.cls_logits", "rpn.head.bbox_pred"),)
    for name in (*layers, "roi_head.box_predictor.cls_score"):
        check_gaussian(layer(model, name), 0.01)
    check_gaussian(layer(model, "roi_head.box_predictor.bbox_pred"), 0.001)


def check_gaussian(module, std):
    weight = module.weight.detach()
    assert not module.bias.any()
    assert abs(weight.std() / std - 1) < 4 / weight.numel() ** 0.5
    assert abs(kurtosis(weight) - 3) < 30 / weight.numel() ** 0.5


def test_a_preset_decides_for_any_network_and_an_option_before_it():
    uniform = faster_rcnn("zf", 91, "torchvision", anchor_sizes=((32.0,),), roi_levels=None)
    weight = uniform.roi_head.box_predictor.cls_score.weight
    assert kurtosis(weight.detach()) < 2
    gaussian = faster_rcnn("resnet18_fpn", 91, box_init="gaussian")
    check_gaussian(gaussian.roi_head.box_predictor.cls_score, 0.01)
    with pytest.raises(ValueError, match="box_init must be one of gaussian, uniform, got 'zero'"):
        faster_rcnn("tiny", 3, box_init="zero")


def test_how_a_model_began_does_not_keep_a_run_from_going_on():
    saved = {"name": "resnet18_fpn", "classes": ["a", "b"], "config": {"box_init": "gaussian"}}
    wanted = {**saved, "config": {"box_init": "uniform"}}
    require_same_model("last.pt", saved, wanted)


NETWORKS = ["resnet18_fpn", "timm:resnet18", "torchvision:resnet18"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_torchvision_preset_with_weights_is_fine_tuning(name):
    """FrozenBatchNorm, and layer2 to layer4 are trained: torchvision's defaults with weights."""
    config = TrainConfig(model=name, preset="torchvision", weights="a.pth")
    body = new_model(config, 3).backbone.body
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())
    trained = {n.split(".")[0] for n, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    theirs = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    weights = {n for n, p in theirs.body.named_parameters() if p.requires_grad}
    assert {n for n, p in body.named_parameters() if p.requires_grad} == weights


@pytest.mark.parametrize(
    "settings", [{"preset": "torchvision"}, {"weights": "a.pth"}, {"preset": None}]
)
def test_without_preset_or_weights_all_is_trained(settings):
    body = new_model(TrainConfig(model="resnet18_fpn", **settings), 3).backbone.body
    assert all(p.requires_grad for p in body.parameters())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in body.modules())


def test_what_is_given_goes_before_fine_tuning():
    options = {"freeze_below": 4, "backbone_norm": "batch"}
    config = TrainConfig(
        model="resnet18_fpn", preset="torchvision", weights="a.pth", model_options=options
    )
    model = new_model(config, 3)
    assert (model.config.freeze_below, model.config.backbone_norm) == (4, "batch")
    vgg = TrainConfig(
        model="zf",
        preset="torchvision",
        weights="a.pth",
        model_options={"anchor_sizes": [[32.0]], "roi_levels": None},
    )
    assert new_model(vgg, 3).config.freeze_below == 3  # which has no norms to freeze
