"""Weights in the files of other libraries and scripts; models out of them; safetensors."""

import argparse
import json

import pytest
import torch

from fastrpn.inference import Predictor
from fastrpn.models import faster_rcnn, load_imagenet, load_torchvision, load_weights
from fastrpn.models.checkpoint import (
    describe_model,
    export_weights,
    load_model,
    save_checkpoint,
    save_weights,
)
from fastrpn.models.torchvision_detectors import COCO_CLASSES

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")
detection = pytest.importorskip("torchvision.models.detection")
safetensors = pytest.importorskip("safetensors.torch")

SMALL = {"min_size": 64, "max_size": 96, "fpn_channels": 16}
NETWORKS = (
    *("timm:resnet18", "timm:tf_efficientnet_lite0", "timm:convnext_atto", "timm:vgg11_bn"),
    *("torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:vgg11_bn"),
)


def build(name, **options):
    torch.manual_seed(0)
    return faster_rcnn(name, 3, **{**SMALL, **options})


def classifier(name):
    torch.manual_seed(1)
    library, name = name.split(":")
    return timm.create_model(name) if library == "timm" else models.get_model(name)


def snapshot(model):
    return {n: v.clone() for n, v in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def write(weights, path):
    if path.suffix == ".safetensors":
        safetensors.save_file({n: v.contiguous() for n, v in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_classifier_of_a_library(name, file, tmp_path, capsys):
    source, model = classifier(name), build(name)
    load_weights(model, write(source.state_dict(), tmp_path / file))
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"{file}: left out " in line
    theirs = {n.replace(".", "_"): v for n, v in source.state_dict().items()}
    for n, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, theirs[n.replace(".", "_")]), n


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:mobilenet_v3_small"])
def test_a_classifier_for_a_pyramid_of_few_maps(name, tmp_path):
    """Its last stages have no place, which is no fault."""
    model = build(name, fpn_strides=(4, 8))
    load_weights(model, write(classifier(name).state_dict(), tmp_path / "a.pth"))


def test_a_classifier_of_more_blocks_is_another_network(tmp_path):
    """All that resnet18 has is in resnet34's file, too, in the same shapes."""
    for name in ("timm:resnet18", "torchvision:resnet18", "resnet18_fpn"):
        model = build(name)
        before = snapshot(model)
        path = write(models.resnet34().state_dict(), tmp_path / "resnet34.pth")
        with pytest.raises(ValueError, match="layer1.2.bn1.bias is unknown to the model"):
            load_weights(model, path)
        assert same(before, model)


WRAPPED = {
    "torchvision's script": lambda w: {
        "model": w,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, data_path="/data", aspect_ratio_group_factor=3),
    },
    "timm's script": lambda w: {
        "state_dict": {n: torch.zeros_like(v) for n, v in w.items()},
        "state_dict_ema": w,
        "arch": "resnet18",
        "args": argparse.Namespace(),
    },
    "torchvision's average": lambda w: {
        "model": {n: torch.zeros_like(v) for n, v in w.items()},
        "model_ema": {
            "n_averaged": torch.tensor(5),
            **{f"module.{n}": v for n, v in w.items()},
        },
    },
    "DistributedDataParallel": lambda w: {f"module.{n}": v for n, v in w.items()},
    "torch.compile under it": lambda w: {f"module._orig_mod.{n}": v for n, v in w.items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_scripts_save(kind, tmp_path):
    weights = models.resnet18(num_classes=2).state_dict()
    model = build("torchvision:resnet18")
    torch.save(WRAPPED[kind](weights), tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    body = model.backbone.body.state_dict()
    assert all(torch.equal(value, weights[n]) for n, value in body.items())


def test_code_in_a_file_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": {}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth: cannot be read"):
        load_weights(build("timm:resnet18"), tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "holds no state dict, its 'a' is int"),
        ({3: torch.ones(1)}, "holds no state dict, its 3 is Tensor"),
        ({"state_dict": [1]}, "holds no state dict, its 'state_dict' is list"),
        ("text", "holds no state dict"),
    ],
)
def test_files_without_a_state_dict(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth: {message}"):
        load_weights(build("timm:resnet18"), tmp_path / "a.pth")


@pytest.mark.parametrize("end", [b"", b"nothing", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_broken_safetensors(end, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(end)
    for load in (lambda p: load_weights(build("timm:resnet18"), p), load_model):
        with pytest.raises(ValueError, match=r"a.safetensors: cannot be read"):
            load(tmp_path / "a.safetensors")


# Downloads


@pytest.mark.parametrize("word", ["imagenet", "DEFAULT"])
@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "resnet18_fpn"])
def test_without_a_network_imagenet_is_one_line(name, word, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host\nmore lines")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    model = build(name)
    before = snapshot(model)
    with pytest.raises(ValueError, match="cannot be downloaded .no route to host.;") as error:
        load_weights(model, word)
    assert "\n" not in str(error.value)
    assert same(before, model)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "resnet18_fpn"])
def test_imagenet_is_what_the_library_offers(name, monkeypatch):
    weights = models.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: weights)
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(weights)
    )
    model = build(name)
    state = torch.get_rng_state()
    load_weights(model, "imagenet")
    assert torch.equal(torch.get_rng_state(), state)
    body = model.backbone.body.state_dict()
    assert all(torch.equal(value, weights[n]) for n, value in body.items() if "num_b" not in n)


def test_a_network_that_nobody_has_trained(tmp_path):
    with pytest.raises(ValueError, match="no library has weights for a backbone Tiny"):
        load_weights(faster_rcnn("tiny", 3), "imagenet")
    with pytest.raises(FileNotFoundError, match="imagenet21k: no such file"):
        load_weights(build("timm:resnet18"), "imagenet21k")


# Detectors of torchvision


def detector(make="fasterrcnn_resnet50_fpn", num_classes=91, **options):
    torch.manual_seed(0)
    options = {"weights_backbone": None, "num_classes": num_classes, **options}
    model = getattr(detection, make)(weights=None, **options)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0
        model.backbone(torch.rand(2, 3, 128, 160) * 4 - 2)
        model.rpn.head.cls_logits.weight.mul_(10)
        model.rpn.head.bbox_pred.weight.mul_(10)
        model.roi_heads.box_predictor.cls_score.weight.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    model = detector()
    path = tmp_path_factory.mktemp("coco") / "fasterrcnn_resnet50_fpn_coco.pth"
    torch.save(model.state_dict(), path)
    return model, path


def test_a_plain_state_dict_of_91_classes_is_cocos(coco, capsys):
    theirs, path = coco
    model, classes = load_model(path)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "resnet50_fpn, with names of COCO's 90 classes" in line
    official = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert len(classes) == len(set(classes)) == 91
    assert [c if not c.startswith("N/A") else "N/A" for c in classes] == official
    model.to(memory_format=torch.contiguous_format)
    theirs.transform.min_size, theirs.transform.max_size = (128,), 200
    model.config = model.config.override(min_size=128, max_size=200)
    generator = torch.Generator().manual_seed(1)
    for size in ((128, 200), (90, 140), (231, 120)):
        image = [torch.rand(3, *size, generator=generator)]
        with torch.no_grad():
            (found,), (wanted,) = model(image), theirs(image)
        assert len(found["scores"]) == len(wanted["scores"]) > 20
        for these, those in ((found, wanted), (wanted, found)):  # ties may change places
            boxes = (these["boxes"][:, None] - those["boxes"]).abs().amax(2) < 1e-2
            scores = (these["scores"][:, None] - those["scores"]).abs() < 1e-4
            assert (boxes & scores & (these["labels"][:, None] == those["labels"])).any(1).all()


def test_a_predictor_opens_it(coco):
    predictor = Predictor(coco[1], device="cpu")
    assert predictor.classes == list(COCO_CLASSES)
    assert set(predictor(torch.rand(3, 100, 120))) == {"boxes", "scores", "labels"}


@pytest.mark.parametrize(
    ("name", "num_classes", "classes"),
    [("resnet18", 3, ["__background__", "class 1", "class 2"]), ("resnet101", 91, COCO_CLASSES)],
)
def test_other_resnets_and_numbers_of_classes(name, num_classes, classes, tmp_path):
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name=name, weights=None)
    theirs = detection.FasterRCNN(backbone, num_classes)
    arguments = argparse.Namespace(model="fasterrcnn")
    torch.save({"model": theirs.state_dict(), "args": arguments}, tmp_path / "model_25.pth")
    model, names = load_model(tmp_path / "model_25.pth")
    assert names == list(classes)
    weights = theirs.state_dict()
    assert torch.equal(
        model.backbone.body.layer4[1].conv2.weight, weights["backbone.body.layer4.1.conv2.weight"]
    )


@pytest.mark.parametrize(
    "make",
    [
        *("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"),
        *("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"),
    ],
)
def test_detectors_that_are_refused_by_name(make, tmp_path):
    with torch.device("meta"):
        state_dict = getattr(detection, make)(weights=None, weights_backbone=None).state_dict()
    weights = {n: torch.empty(v.shape) for n, v in state_dict.items()}
    torch.save(weights, tmp_path / "a.pth")
    name = "RetinaNet" if "retina" in make else make
    model = build("resnet18_fpn")
    before = snapshot(model)
    for load in (load_model, lambda path: load_weights(model, path)):
        with pytest.raises(ValueError, match=f"torchvision's {name}.*fastrpn does not have") as e:
            load(tmp_path / "a.pth")
        assert "\n" not in str(e.value)
    assert same(before, model)


def test_classifiers_are_no_checkpoints(tmp_path):
    path = write(models.resnet18().state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a checkpoint of fastrpn, nor a Faster R-CNN"):
        load_model(path)


# Loading changes nothing but weights


def test_loading_changes_nothing_else():
    model = build("timm:tf_efficientnet_lite0", freeze_below=3).double()
    model.to(memory_format=torch.contiguous_format)
    model.roi_head.eval()
    source = build("timm:tf_efficientnet_lite0")

    def state():
        return {
            "eps": [m.eps for m in model.modules() if hasattr(m, "eps")],
            "mode": [m.training for m in model.modules()],
            "grad": [p.requires_grad for p in model.parameters()],
            "kind": [(p.dtype, p.stride(), p.data_ptr()) for p in model.parameters()],
            "config": model.config,
            "random": torch.get_rng_state().tolist(),
            "transform": (model.transform.mean.tolist(), model.transform.std.tolist()),
        }

    plain = classifier("timm:tf_efficientnet_lite0").state_dict()
    before, given = state(), snapshot(source)
    assert {1e-3} == set(before["eps"])
    load_torchvision(model, source.state_dict())
    assert state() == before
    assert torch.equal(model.backbone.body.conv_stem.weight, source.backbone.body.conv_stem.weight)
    load_imagenet(model, plain)
    assert state() == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert same(given, source)  # nothing is shared with the caller's


def test_features_after_loading_are_the_sources():
    source, model = build("timm:tf_efficientnet_lite0"), build("timm:tf_efficientnet_lite0")
    with torch.no_grad():
        for value in source.backbone.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.001, 0.01)
    load_torchvision(model, source.state_dict())
    model.to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model.eval().features(image), source.eval().features(image), strict=True):
            torch.testing.assert_close(a, b)


def test_one_unfit_tensor_leaves_all_as_they_were(tmp_path):
    vgg = faster_rcnn("resnet50_c4", 3)
    weights = models.resnet50().state_dict()
    weights["layer4.2.conv3.weight"] = torch.zeros(3)  # goes to the head, after the backbone
    before = snapshot(vgg)
    with pytest.raises(ValueError, match=r"layer4.2.conv3.weight has shape \(3,\)"):
        load_imagenet(vgg, weights)
    assert same(before, vgg)


def test_integers_are_no_weights():
    model = build("timm:resnet18")
    weights = classifier("timm:resnet18").state_dict()
    weights["conv1.weight"] = weights["conv1.weight"].to(torch.int8)
    with pytest.raises(ValueError, match="conv1.weight is torch.int8, the model's torch.float32"):
        load_imagenet(model, weights)


# Weights alone


def test_weights_as_safetensors(tmp_path):
    model = build("timm:mobilenetv3_small_100", fpn_strides=(8, 16)).eval()
    classes = ["__background__", "Katze", "狗"]
    described = describe_model("timm:mobilenetv3_small_100", model, classes)
    content = {"model": described, "weights": model.state_dict(), "optimizer": {"a": 1}}
    checkpoint = save_checkpoint(tmp_path / "last.pt", content)
    path = export_weights(checkpoint, tmp_path / "for-others.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["fastrpn"])
        assert set(file.keys()) == set(model.state_dict())
    assert (told["name"], told["classes"]) == ("timm:mobilenetv3_small_100", classes)
    loaded, names = load_model(path)
    assert names == classes and loaded.config == model.config
    assert same(snapshot(model), loaded)
    image = torch.rand(3, 70, 90)
    expected = Predictor(checkpoint, device="cpu")(image)
    for n, value in Predictor(path, device="cpu")(image).items():
        assert torch.equal(value, expected[n])
    other = faster_rcnn("timm:mobilenetv3_small_100", 3, **SMALL | {"fpn_strides": (8, 16)})
    load_weights(other, path)
    assert same(snapshot(model), other)


def test_weights_of_torchvision_get_names_in_safetensors(coco, tmp_path):
    path = export_weights(coco[1], tmp_path / "coco.safetensors")
    _, classes = load_model(path)
    assert classes == list(COCO_CLASSES)


def test_what_cannot_be_exported(tmp_path):
    model = build("timm:resnet18")
    with pytest.raises(ValueError, match="a.pt: must end with .safetensors"):
        save_weights(tmp_path / "a.pt", model, "timm:resnet18", ["__background__", "a", "b"])
    with pytest.raises(ValueError, match="classes must be 3 names with the background, got 2"):
        save_weights(tmp_path / "a.safetensors", model, "timm:resnet18", ["__background__", "a"])
    with pytest.raises(ValueError, match="missing.pt: no such file"):
        export_weights(tmp_path / "missing.pt", tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
