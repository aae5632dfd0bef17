"""Every backend detects what the model detects, and leaves the model as it is."""

import copy

import pytest
import torch
from torch import nn

from fastrpn.inference import Predictor
from fastrpn.inference.backends import choose_backend
from fastrpn.models import BackboneWithFPN, BoxHead, FasterRCNN, faster_rcnn
from fastrpn.models.fused import FusedBoxHead, fused
from fastrpn.models.fused_convolution import FusedConv2d, contiguous
from tests.deployment.detectors import MODELS, SMALL, detector, images_of_mixed_sizes

IMAGES = images_of_mixed_sizes(2)


def assert_same(found, expected):
    """Boxes within 1e-2 pixels, scores within 1e-4."""
    assert len(found) == len(expected) > 0
    for these, those in zip(found, expected, strict=True):
        assert len(those["scores"]) > 5
        assert torch.equal(these["labels"], those["labels"])
        assert (these["boxes"] - those["boxes"]).abs().max() < 1e-2
        assert (these["scores"] - those["scores"]).abs().max() < 1e-4


@pytest.fixture(scope="module")
def tiny():
    return detector("tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FASTRPN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


NETWORKS = {
    "tiny": lambda: detector("tiny"),
    "resnet18_fpn": MODELS["resnet18_fpn"],
    "resnet50_fpn, frozen": lambda: detector("resnet50_fpn", backbone_norm="frozen"),
    "zf": MODELS["zf"],
    "timm:efficientnet_lite0": lambda: detector("timm:efficientnet_lite0", fpn_channels=64),
    "timm:convnext_atto": lambda: detector("timm:convnext_atto", fpn_channels=64),
    "torchvision:mobilenet_v3_large": MODELS["torchvision:mobilenet_v3_large"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_detects_the_same(name):
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    model = NETWORKS[name]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twin = fused(model)
    kinds = [type(module) for module in twin.modules()]
    assert FusedConv2d in kinds and nn.BatchNorm2d not in kinds
    with torch.inference_mode():
        assert_same(twin(IMAGES), model(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_and_other_sizes_after_the_first():
    model = detector("resnet18_fpn")
    detect = Predictor(model, backend="fused", batch_size=3)
    for image in (*IMAGES, torch.rand(3, 300, 150), *IMAGES):
        assert_same([detect(image)], [Predictor(model, backend="eager")(image)])
    batch = [*IMAGES, torch.rand(3, 100, 300)]
    assert_same(detect(batch), Predictor(model, backend="eager", batch_size=3)(batch))


COMPILED = pytest.param("compiled", marks=pytest.mark.slow)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", COMPILED])
def test_exported_backends(tiny, backend):
    if backend != "compiled":
        pytest.importorskip(backend)
    image = torch.nn.functional.interpolate(IMAGES[0][None], size=(160, 160))[0]
    expected = Predictor(tiny, backend="eager", score_threshold=0.02)([image])
    assert_same(Predictor(tiny, backend=backend, score_threshold=0.02)([image]), expected)


def test_an_export_is_made_once(tiny, monkeypatch):
    from fastrpn.inference import backends

    pytest.importorskip("onnxruntime")
    Predictor(tiny, backend="onnxruntime", score_threshold=0.02)
    monkeypatch.setattr(backends, "export", lambda *a, **k: pytest.fail("exported again"))
    Predictor(tiny, backend="onnxruntime", score_threshold=0.02)
    with pytest.raises(pytest.fail.Exception):
        Predictor(tiny, backend="onnxruntime", score_threshold=0.03)


def test_auto_is_fused_on_a_cpu(tiny):
    found, expected = Predictor(tiny)(IMAGES), Predictor(tiny, backend="fused")(IMAGES)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(found, expected, strict=True))
    eager = Predictor(tiny, backend="eager")(IMAGES)
    with torch.inference_mode():
        plain = tiny(IMAGES)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(eager, plain, strict=True))


def test_the_copy_follows_the_model():
    model = detector("tiny")
    detect = Predictor(model)
    before = detect(IMAGES)
    with torch.no_grad():
        model.roi_head.box_predictor.cls_score.weight.mul_(0.5)
    after = detect(IMAGES)
    assert not torch.equal(before[0]["scores"], after[0]["scores"])
    assert_same(after, Predictor(model, backend="eager")(IMAGES))
    model.config = model.config.override(detections_per_image=7)
    assert len(detect(IMAGES[0])["scores"]) == 7


def test_training_goes_on(tiny):
    model = detector("tiny")
    Predictor(model)(IMAGES)
    target = {"boxes": torch.tensor([[9.0, 9.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    sum(model.train()(IMAGES[:1], [target]).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_bfloat16():
    model = detector("tiny")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(ValueError, match="backend fused .* in bf16 where the CPU has it"):
            Predictor(model, backend="fused", precision="bf16")
        assert choose_backend(model, "auto", "bf16") == "eager"
        return
    twin = fused(model, torch.bfloat16)
    with torch.inference_mode():
        images = model.prepare(IMAGES[:1])
        found, expected = twin.predict_rpn(images), model.predict_rpn(images)
    assert found.objectness.dtype == torch.float32
    error = (found.objectness - expected.objectness).abs().mean()
    assert 0 < error < 0.05 * expected.objectness.std()


def test_a_network_that_cannot_be_traced_stays():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=8, padding=1)

        def forward(self, x):
            return [self.conv(x) if x.sum() > 0 else self.conv(-x)]

    model = faster_rcnn("tiny", 3)
    backbone = BackboneWithFPN(Branching(), [8], [8], 16, extra_level=False)
    options = model.config.override(anchor_sizes=((32.0,),), roi_levels=1, rpn_levels=1, **SMALL)
    model = FasterRCNN(backbone, BoxHead(16 * options.roi_size**2, 16), 3, options).eval()
    twin = fused(model)
    assert isinstance(twin.backbone.body, Branching)
    with torch.inference_mode():
        image = model.prepare(IMAGES[:1]).images
        torch.testing.assert_close(twin.features(image), model.features(image))


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": "same", "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 32},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.inference_mode()
def test_convolution(options, layout):
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 128, **options)
    x = torch.randn(2, 128, 33, 40).contiguous(memory_format=layout)
    scale, shift = torch.rand(128) + 0.5, torch.randn(128)
    fused_conv = FusedConv2d(conv, scale, shift)
    expected = conv(x) * scale[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(fused_conv(x), expected, rtol=1e-3, atol=1e-3)
    for shortcut in (torch.randn_like(expected), torch.randn(2, 128, 1, 1)):
        before = shortcut.clone()
        found = fused_conv(x, shortcut)
        torch.testing.assert_close(found, expected + before, rtol=1e-3, atol=1e-3)
        assert torch.equal(shortcut, before)


def test_layouts_are_copied():
    x = torch.randn(2, 5, 7, 9)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        assert contiguous(given).is_contiguous() and torch.equal(contiguous(given), given)


def test_bad_backends(tiny):
    with pytest.raises(ValueError, match="backend must be one of auto.*got 'tensorrt'"):
        Predictor(tiny, backend="tensorrt")
    with pytest.raises(ValueError, match="backend fused runs float32 models"):
        Predictor(tiny, backend="fused", precision="fp16")
    with pytest.raises(ValueError, match="backend openvino runs on a CPU in fp32"):
        Predictor(tiny, backend="openvino", precision="bf16")
    with pytest.raises(ValueError, match="cuda_graph: the backend must be eager, got fused"):
        Predictor(tiny, backend="fused", cuda_graph=True)


def test_each_level_packs_its_weights_once():
    """Weights packed for one size of map do not serve another; five levels share one layer."""
    head = fused(faster_rcnn("resnet18_fpn", 3).eval()).rpn.head
    maps = [torch.rand(1, 256, side, side) for side in (12, 6, 3)]
    with torch.inference_mode():
        first = head(maps)
        packed = [conv._packed[1] for conv in head.convs]
        second = head(maps)
    assert len(packed) == len(maps) and None not in packed
    assert all(conv._packed[1] is before for conv, before in zip(head.convs, packed, strict=True))
    assert all(conv.weight is head.conv.weight for conv in head.convs)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_the_box_head_takes_either_layout_and_moves_its_weights_only_when_it_changes():
    head = BoxHead(6 * 3 * 3, 8).eval()
    fused_head = FusedBoxHead(copy.deepcopy(head), torch.float32)
    pooled = torch.randn(5, 6, 3, 3)
    kept = []
    with torch.inference_mode():
        for layout in (torch.channels_last, torch.contiguous_format, torch.channels_last):
            for regions in (pooled, pooled[:0], pooled[:1]):
                found = fused_head(regions.contiguous(memory_format=layout))
                torch.testing.assert_close(found, head(regions))
                kept.append(fused_head._fc6[1])
        sliced = torch.randn(5, 6, 3, 4)[..., :3]
        torch.testing.assert_close(fused_head(sliced), head(sliced))
    assert all(weight is kept[0] for weight in kept[:3]) and kept[3] is not kept[0]
    assert torch.equal(kept[3], head.fc6.weight) and torch.equal(kept[6], kept[0])
