"""ResNets: torchvision's names and results, frozen stages and norms, detectors built on them."""

import pytest
import torch
from torch import nn

from fastrpn.models import faster_rcnn
from fastrpn.models.backbones import FrozenBatchNorm2d, ResNet, ResNetC4, ResNetC5Head
from fastrpn.models.backbones.resnet import conv_norm

models = pytest.importorskip("torchvision.models")
misc = pytest.importorskip("torchvision.ops.misc")


def theirs(depth, **options):
    return getattr(models, f"resnet{depth}")(**options)


def randomize_statistics(model):
    for module in model.modules():
        if hasattr(module, "running_var"):
            for buffer in (module.weight, module.bias, module.running_mean):
                nn.init.uniform_(buffer, 0.5, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_names_and_shapes_are_torchvisions(depth):
    with torch.device("meta"):
        ours, expected = ResNet(depth), theirs(depth)
    expected = {k: v.shape for k, v in expected.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in ours.state_dict().items()} == expected


@pytest.mark.parametrize(("depth", "norm"), [(18, "frozen"), (50, "batch")])
def test_maps_are_torchvisions(depth, norm):
    torch.manual_seed(0)
    layer = nn.BatchNorm2d if norm == "batch" else misc.FrozenBatchNorm2d
    reference = theirs(depth, norm_layer=layer).eval()
    randomize_statistics(reference)
    ours = ResNet(depth, norm).eval()
    ours.load_state_dict({k: v for k, v in reference.state_dict().items() if "fc." not in k})

    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        maps = ours(images)
        for i, stride in enumerate(ours.strides):
            x = getattr(reference, f"layer{i + 1}")(x)
            assert maps[i].shape == (1, ours.channels[i], 64 // stride, 96 // stride)
            torch.testing.assert_close(maps[i], x, rtol=1e-4, atol=1e-5 * x.abs().max().item())


def test_a_frozen_norm_is_torchvisions_and_has_its_gradient():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    ours, reference = FrozenBatchNorm2d(8, eps=1e-3), misc.FrozenBatchNorm2d(8, eps=1e-3)
    randomize_statistics(reference)
    ours.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 17, 12)
    gradients = []
    for result in (conv_norm(images, conv, ours), reference(conv(images))):
        conv.weight.grad = None
        result.square().sum().backward()
        gradients.append((result.detach(), conv.weight.grad))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert not list(ours.parameters())


def test_a_frozen_norm_takes_the_statistics_of_a_batch_norm():
    norm = nn.BatchNorm2d(4)
    norm(torch.rand(2, 4, 3, 3))
    frozen = FrozenBatchNorm2d(4)
    frozen.load_state_dict(norm.state_dict())
    assert torch.equal(frozen.running_mean, norm.running_mean)


def test_frozen_stages_get_no_gradient_and_keep_their_statistics():
    model = ResNet(18, freeze_below=3)
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}

    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(torch.rand(1, 3, 64, 64))
    changed = {
        name.split(".")[0]
        for name, buffer in model.named_buffers()
        if not torch.equal(buffer, before[name])
    }
    assert changed == {"layer2", "layer3", "layer4"}


def test_a_wholly_frozen_norm_leaves_only_convolutions_to_train():
    names = {name.split(".")[-2] for name, _ in ResNet(18, "frozen").named_parameters()}
    assert names <= {"conv1", "conv2", "0"}


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"depth must be one of \[18, 34, 50, 101\], got 20"):
        ResNet(20)
    with pytest.raises(ValueError, match="norm must be 'batch' or 'frozen', got 'group'"):
        ResNet(18, norm="group")
    with pytest.raises(ValueError, match=r"last_stage must lie in 2\.\.5, got 6"):
        ResNet(18, last_stage=6)
    with pytest.raises(ValueError, match="backbone_norm must be one of batch, frozen"):
        faster_rcnn("resnet18_fpn", 3, backbone_norm="group")


def test_c4_and_its_head_are_one_resnet():
    torch.manual_seed(0)
    whole = ResNet(18, "frozen")
    body, head = ResNetC4(18, "frozen"), ResNetC5Head(18, "frozen")
    state = whole.state_dict()
    body.body.load_state_dict({k: v for k, v in state.items() if not k.startswith("layer4")})
    head.load_state_dict({k: v for k, v in state.items() if k.startswith("layer4")})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        c4 = body(images)
        assert c4.shape == (1, body.out_channels, 4, 6) == (1, 256, 4, 6)
        torch.testing.assert_close(head(c4), whole(images)[-1].mean((2, 3)))


SMALL = {
    "min_size": 64,
    "max_size": 96,
    "rpn_pre_nms_top_n_train": 50,
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 10,
    "box_batch_size": 8,
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("resnet18_fpn", torch.float32),
        ("resnet18_fpn", torch.bfloat16),
        ("resnet50_c4", torch.float32),
    ],
)
def test_detectors_train_and_detect(name, dtype):
    torch.manual_seed(0)
    model = faster_rcnn(name, 3, freeze_below=3, **SMALL)
    images = [torch.rand(3, 64, 96), torch.rand(3, 70, 60)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 9, 60, 60]]), "labels": torch.tensor([2])},
    ]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model(images, targets)
        sum(losses.values()).backward()
        model.eval()
        model.config = model.config.override(box_score_threshold=0.0)
        results = model(images)
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    assert all(len(result["boxes"]) > 0 for result in results)
    assert all(result["boxes"].dtype == torch.float32 for result in results)


@pytest.mark.parametrize(
    ("name", "strides", "channels", "features", "anchors"),
    [
        ("resnet50_c4", (16,), 1024, 2048, 15),
        ("resnet18_fpn", (4, 8, 16, 32, 64), 256, 1024, 3),
        ("resnet50_fpn", (4, 8, 16, 32, 64), 256, 1024, 3),
        ("resnet101_fpn", (4, 8, 16, 32, 64), 256, 1024, 3),
    ],
)
def test_architectures(name, strides, channels, features, anchors):
    with torch.device("meta"):
        model = faster_rcnn(name, 21)
    assert model.backbone.strides == strides
    assert model.backbone.out_channels == channels
    assert model.roi_head.box_head.out_features == features
    assert model.rpn.anchors.per_position == anchors
    assert model.roi_head.box_predictor.bbox_pred.weight.shape == (84, features)
