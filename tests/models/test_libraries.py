"""Networks of timm and torchvision as backbones, by name."""

import sys

import pytest
import torch
from torch import nn

from fastrpn.models import faster_rcnn
from fastrpn.models.checkpoint import describe_model, load_model, save_checkpoint
from fastrpn.models.zoo import build_model

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")

SMALL = {"min_size": 64, "max_size": 96, "fpn_channels": 16, "box_batch_size": 16}
TIMM = (
    *("timm:tf_efficientnet_lite0", "timm:resnet18", "timm:mobilenetv3_small_100"),
    *("timm:convnext_atto", "timm:regnety_002", "timm:vgg11_bn", "timm:densenet121"),
)
TORCHVISION = (
    *("torchvision:resnet18", "torchvision:mobilenet_v3_large", "torchvision:efficientnet_b0"),
    *("torchvision:convnext_tiny", "torchvision:vgg11_bn", "torchvision:regnet_y_400mf"),
    *("torchvision:densenet121", "torchvision:shufflenet_v2_x1_0", "torchvision:mnasnet0_5"),
)


def build(name, **options):
    torch.manual_seed(0)
    return faster_rcnn(name, 3, **{**SMALL, **options})


@pytest.mark.parametrize("name", TIMM + TORCHVISION)
def test_losses_gradients_and_detections(name):
    model = build(name)
    images = [torch.rand(3, 61, 83), torch.rand(3, 75, 50)]  # odd
    boxes = torch.tensor([[5.0, 5, 40, 45]])
    losses = model(images, [{"boxes": boxes, "labels": torch.tensor([1 + i])} for i in range(2)])
    sum(losses.values()).backward()
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert not without  # every layer that was kept has a part in the maps
    maps = model.eval().features(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, max(1, 64 // s), max(1, -(-96 // s))) for s in (4, 8, 16, 32, 64)
    ]
    with torch.no_grad():
        assert all(set(found) == {"boxes", "scores", "labels"} for found in model(images))


@pytest.mark.parametrize("name", TIMM)
def test_maps_are_timms(name):
    body = build(name).eval().backbone.body
    theirs = timm.create_model(name.removeprefix("timm:"), features_only=True).eval()
    theirs.load_state_dict(body.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = {64 // m.shape[2]: m for m in theirs(image)}
        for stride, found in zip(body.strides, body(image), strict=True):
            torch.testing.assert_close(found, expected[stride], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_maps_are_torchvisions(name):
    """Each is the output of that layer when the whole classifier runs."""
    body = build(name).eval().backbone.body
    classifier = models.get_model(name.removeprefix("torchvision:")).eval()
    for path in body._paths:
        classifier.get_submodule(path).load_state_dict(body.get_submodule(path).state_dict())
    seen = {}
    for number in body._ends:
        layer = classifier.get_submodule(body._paths[number])
        layer.register_forward_hook(lambda *a, n=number: seen.__setitem__(n, a[2].clone()))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        classifier(image)
        for number, found in zip(body._ends, body(image), strict=True):
            assert found.abs().sum() > 0
            torch.testing.assert_close(found, seen[number], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "torchvision:mobilenet_v3_small"])
def test_a_small_pyramid(name):
    model = build(name, fpn_strides=(4, 8, 16), fpn_channels=64)
    assert model.backbone.strides == (4, 8, 16)
    assert model.config.anchor_sizes == ((32.0,), (64.0,), (128.0,))
    maps = model.features(torch.rand(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 64, 16, 16), (2, 64, 8, 8), (2, 64, 4, 4)]
    assert model.roi_head.config.roi_levels == 3  # none of them is subsampled
    given = build(name, fpn_strides=[8, 16], anchor_sizes=((20.0,), (50.0,)))
    assert given.config.anchor_sizes == ((20.0,), (50.0,))


@pytest.mark.parametrize("strides", [(), (3, 6), (4, 16), (64,), (8, 4), (64, 128)])
def test_strides_that_are_no_pyramid(strides):
    with pytest.raises(ValueError, match="fpn_strides must be powers of two"):
        build("timm:resnet18", fpn_strides=strides)


@pytest.mark.parametrize("preset", [None, "torchvision"])
def test_images_are_normalised_as_the_network_wants_them(preset):
    config = build("timm:tf_efficientnet_lite0", preset=preset).config
    assert (config.image_mean, config.image_std) == ((0.5,) * 3, (0.5,) * 3)
    config = build("torchvision:resnet18", preset=preset).config
    assert config.image_mean == (0.485, 0.456, 0.406)
    own = build("timm:resnet18", preset=preset, image_mean=(0.1, 0.2, 0.3)).config
    assert own.image_mean == (0.1, 0.2, 0.3)


NORMS = ["timm:tf_efficientnet_lite0", "timm:resnet18", "torchvision:efficientnet_b0"]


@pytest.mark.parametrize("name", NORMS)
def test_frozen_norms_keep_names_activations_and_eps(name):
    """timm's norms contain the activation; a swap for a plain one would lose it."""
    plain, frozen = build(name), build(name, backbone_norm="frozen")
    weights = plain.state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.abs_().add_(0.01)  # norms differ from the identity
    plain.load_state_dict(weights)
    frozen.load_state_dict({n: v for n, v in weights.items() if "num_batches" not in n})
    image = torch.rand(1, 3, 64, 64) - 0.5
    plain.eval(), frozen.eval()
    with torch.no_grad():
        for a, b in zip(plain.backbone.body(image), frozen.backbone.body(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    frozen.train()
    statistics = {n: v.clone() for n, v in frozen.state_dict().items() if "running" in n}
    assert len(statistics) > 20
    frozen.backbone(torch.rand(2, 3, 64, 64))
    for n, value in statistics.items():
        assert torch.equal(value, frozen.state_dict()[n])
    assert not any(n.endswith((".bn1.weight", ".1.1.weight")) for n, _ in frozen.named_parameters())


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "torchvision:mobilenet_v3_large"])
def test_no_activation_copies_its_input(name):
    """In place, one whose gradient needs its input would."""
    body = build(name, backbone_norm="frozen").backbone.body
    image = torch.rand(1, 3, 64, 64)
    changed = [m for m in body.modules() if isinstance(m, nn.ReLU6 | nn.Hardswish)]
    assert changed and not any(module.inplace for module in changed)

    def gradients():
        body.zero_grad()
        sum(map_.square().sum() for map_ in body(image)).backward()
        return [p.grad.clone() for p in body.parameters() if p.grad is not None]

    ours = gradients()
    for module in changed:
        module.inplace = True
    assert all(map(torch.equal, ours, gradients())) and len(ours) > 20


RESTING = {  # stage 2 ends with the map of stride 4
    "timm:resnet18": (("conv1", "bn1", "layer1"), "layer2"),
    "torchvision:resnet18": (("conv1", "bn1", "layer1"), "layer2"),
    "timm:tf_efficientnet_lite0": (("conv_stem", "bn1", "blocks.0", "blocks.1"), "blocks.2"),
    "torchvision:efficientnet_b0": (("features.0", "features.1", "features.2"), "features.3"),
    "timm:convnext_atto": (("stem_0", "stem_1", "stages_0"), "stages_1"),
}


@pytest.mark.parametrize("name", RESTING)
def test_stages_rest(name):
    resting, first_trained = RESTING[name]
    body = build(name, freeze_below=3).train().backbone.body
    trained = {n for n, p in body.named_parameters() if p.requires_grad}
    assert any(n.startswith(f"{first_trained}.") for n in trained)
    assert not any(n.startswith(tuple(f"{part}." for part in resting)) for n in trained)
    before = {n: v.clone() for n, v in body.state_dict().items()}
    body(torch.rand(2, 3, 64, 64))
    moved = {n for n, v in body.state_dict().items() if not torch.equal(v, before[n])}
    assert not any(n.startswith(tuple(f"{part}." for part in resting)) for n in moved)
    if "convnext" not in name:  # which has no statistics
        assert any(n.startswith(f"{first_trained}.") for n in moved)


def test_a_stage_that_a_network_does_not_have():
    with pytest.raises(ValueError, match="freeze_below=2: timm:convnext_atto has no map"):
        build("timm:convnext_atto", freeze_below=2)
    with pytest.raises(ValueError, match="freeze_below=2: torchvision:convnext_tiny has no map"):
        build("torchvision:convnext_tiny", freeze_below=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet81", "timm has no network 'resnet81'; near it: .*timm:resnet18"),
        (
            "timm:resnet18.imagenet",
            "timm has no network 'resnet18.imagenet'; near it: timm:resnet18",
        ),
        ("torchvision:resnet5", "torchvision has no network 'resnet5'; near it: .*resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no network"),
        ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224 takes images of one size alone"),
        ("timm:swin_tiny_patch4_window7_224", "takes images of one size alone"),
        ("torchvision:vit_b_16", "torchvision:vit_b_16 has no map of stride 4"),
        ("torchvision:swin_t", "torchvision:swin_t has no map of stride 4"),
        ("torchvision:inception_v3", "torchvision:inception_v3 has no map of stride 4"),
        ("torchvision:alexnet", "torchvision:alexnet has no map of stride 4"),
        ("keras:resnet18", "name must be one of .*timm:NAME, torchvision:NAME"),
        ("resnet50-fpn", "did you mean resnet50_fpn"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build(name)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"needs {library}: pip install {library}"):
        build(f"{library}:resnet18")


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_100", "torchvision:mobilenet_v3_small"])
def test_a_checkpoint_loads_again_by_name_without_a_network(name, tmp_path, monkeypatch):
    model = build(name, fpn_strides=(8, 16, 32), freeze_below=3).eval()
    classes = ["__background__", "cat", "dog"]
    described = describe_model(name, model, classes)
    content = {"model": described, "weights": model.state_dict()}
    path = save_checkpoint(tmp_path / "last.pt", content)

    def refuse(*_, **__):
        raise AssertionError("a checkpoint must not need the network")

    monkeypatch.setattr("socket.socket", refuse)
    loaded, names = load_model(path)
    assert names == classes
    assert list(loaded.state_dict()) == list(model.state_dict())
    image = [torch.rand(3, 70, 90)]
    with torch.no_grad():
        for name_, value in model(image)[0].items():
            assert torch.equal(value, loaded(image)[0][name_])
    rebuilt = build_model(name, 3, model.config)
    resting = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert resting == [n for n, p in rebuilt.named_parameters() if not p.requires_grad]


def test_no_batch_norm_of_a_trained_network_is_left_in_evaluation():
    for name in ("timm:resnet18", "torchvision:resnet18"):
        norms = [m for m in build(name).modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(norm.training for norm in norms)
