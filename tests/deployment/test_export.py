"""Exported detectors find what the model finds, whatever the format and the size of the image."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import fastrpn
from benchmarks.deployment import same_size_in_floats
from fastrpn.deployment import FORMATS, ExportedModel, export
from fastrpn.inference import Predictor
from fastrpn.models import faster_rcnn
from tests.deployment.detectors import detector, images_of_mixed_sizes, trimmed, unmatched
from tests.deployment.runtimes import RUNTIMES

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_model_finds_what_the_model_finds(tiny, exported, format):
    images = images_of_mixed_sizes(20) + [torch.rand(3, 400, 33), torch.rand(3, 33, 400)]
    found = ExportedModel(exported(format))(images)
    with torch.no_grad():
        expected = [tiny([image])[0] for image in images]
    assert sum(len(result["scores"]) for result in expected) > 500
    assert sum(map(unmatched, found, expected)) == 0
    if format == "torch":  # the same operators: the same bits
        for ours, theirs in zip(found, expected, strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_openvino_finds_what_the_model_finds(tiny, exported):
    pytest.importorskip("openvino")
    run = RUNTIMES["openvino"](exported("onnx"))
    images = images_of_mixed_sizes(20)
    images = [i for i in images if same_size_in_floats(tiny.config, *i.shape[1:])]
    with torch.no_grad():
        expected = [tiny([image])[0] for image in images]
    assert len(images) >= 15 and sum(len(result["scores"]) for result in expected) > 500
    found = [trimmed(*run(image)) for image in images]
    assert sum(map(unmatched, found, expected)) == 0


@pytest.fixture(scope="module")
def fixed_batch(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("fixed") / "b.onnx"
    return export(tiny, path, format="onnx", height=150, width=203, batch=3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_finds_what_the_model_finds_in_a_batch_of_fixed_size(tiny, runtime, fixed_batch):
    pytest.importorskip(runtime)
    images = torch.stack([image[:, :60, :60] for image in images_of_mixed_sizes(3)])
    images = torch.nn.functional.interpolate(images, size=(150, 203))
    *padded, counts = RUNTIMES[runtime](fixed_batch)(images)
    with torch.no_grad():
        expected = tiny(list(images))
    assert counts.tolist() == [len(result["scores"]) for result in expected]
    assert sum(counts) > 50
    for found, theirs in zip(zip(*padded, strict=True), expected, strict=True):
        assert unmatched(trimmed(*found), theirs) == 0


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_one_side_fixed_and_a_batch(tiny, format, tmp_path):
    suffix = "onnx" if format == "onnx" else "pt2"
    path = export(tiny, tmp_path / f"b.{suffix}", format=format, height=100, batch=2)
    images = [torch.rand(3, 100, width) for width in (90, 170, 90, 170, 90)]
    found = ExportedModel(path)(images)  # groups of equal size, the last one half full
    with torch.no_grad():
        expected = [tiny([image])[0] for image in images]
    assert sum(len(result["scores"]) for result in expected) > 50
    assert sum(map(unmatched, found, expected)) == 0
    with pytest.raises(ValueError, match=r"images\[0\] must be 100 x any pixels.*got 90 x 100"):
        ExportedModel(path)([torch.rand(3, 90, 100)])


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_without_transform_it_takes_what_the_model_prepares(tiny, format, tmp_path):
    path = tmp_path / ("t.onnx" if format == "onnx" else "t.pt2")
    export(tiny, path, format=format, transform=False)
    model = ExportedModel(path)
    for image in (torch.rand(3, 160, 160), torch.rand(3, 96, 160)):
        batch = tiny.prepare([image])
        found = trimmed(*model._run(batch.images[0]))
        with torch.no_grad():
            assert unmatched(found, tiny([image])[0]) == 0
    with pytest.raises(ValueError, match="without transform"):
        model([torch.rand(3, 160, 160)])


@pytest.mark.parametrize(
    "options",
    [
        {
            **{"bgr": True, "image_mean": (0.3, 0.4, 0.5)},
            **{"rpn_min_size": 12.0, "rpn_min_size_original": True},
        },
        {"roi_op": "roi_align", "roi_sampling_ratio": 0, "roi_aligned": True, "max_size": None},
    ],
)
def test_rules_of_other_implementations(options, tmp_path):
    model = detector("tiny", **options)
    images = images_of_mixed_sizes(3)
    path = export(model, tmp_path / "m.pt2", format="torch")
    with torch.no_grad():
        for ours, image in zip(ExportedModel(path)(images), images, strict=True):
            assert torch.equal(ours["boxes"], model([image])[0]["boxes"])


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_file_says_of_itself(tiny, exported, format):
    metadata = ExportedModel(exported(format)).metadata
    assert metadata.classes == ["__background__", "cat", "dog", "gnu"]
    assert metadata.size == (None, None, None) and metadata.transform
    assert metadata.score_threshold == tiny.config.box_score_threshold
    assert metadata.versions == {
        "fastrpn_version": fastrpn.__version__,
        "torch_version": torch.__version__,
    }
    assert metadata.config == json.loads(json.dumps(metadata.config))
    assert metadata.config["min_size"] == tiny.config.min_size


@pytest.mark.parametrize("format", FORMATS)
def test_a_predictor_runs_it(tiny, exported, format):
    image = (images_of_mixed_sizes(1)[0] * 255).byte().permute(1, 2, 0).numpy()
    ours = Predictor(exported(format), score_threshold=0.3)
    theirs = Predictor(tiny, score_threshold=0.3, classes=["cat", "dog", "gnu"])
    assert ours.classes == theirs.classes
    found, expected = ours([image, np.rot90(image)]), theirs([image, np.rot90(image)])
    assert all(len(result["scores"]) for result in expected)
    assert sum(map(unmatched, found, expected)) == 0


def test_what_is_settled_in_a_file_cannot_be_asked_for(exported):
    path = exported("onnx")
    with pytest.raises(ValueError, match=r"score_threshold must be at least 0.05.*got 0.01"):
        Predictor(path, score_threshold=0.01)
    with pytest.raises(ValueError, match="precision bf16"):
        Predictor(path, precision="bf16")
    with pytest.raises(ValueError, match="cuda_graph"):
        Predictor(path, cuda_graph=True)


def test_an_onnx_file_holds_standard_operators_alone(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert not model.functions
    sides = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["", "height", "width"]
    assert [output.name for output in model.graph.output] == ["boxes", "scores", "labels"]


@pytest.mark.parametrize(
    ("format", "load"),
    [
        ("torch", "torch.export.load({path!r}).module()"),
        ("aoti", "torch._inductor.aoti_load_package({path!r})"),
    ],
)
def test_a_program_needs_torch_and_the_operator_library_alone(exported, format, load):
    """Python without the fastrpn package."""
    library = fastrpn._library._TORCH_LIBRARY
    code = f"""
import sys, torch
sys.modules["fastrpn"] = None
torch.ops.load_library({str(library)!r})
detect = {load.format(path=str(exported(format)))}
print([list(output.shape) for output in detect(torch.rand(3, 120, 150))])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[[100, 4], [100], [100]]\n", found.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "format must be one of torch, aoti, onnx, got 'tflite'"),
        ({"format": "onnx", "name": "m.pt2"}, r"format onnx must end in \.onnx, got .*m\.pt2"),
        ({"format": "torch", "height": 0}, "height must be a whole number of at least 1, got 0"),
        ({"format": "torch", "batch": -1}, "batch must be a whole number of at least 1, got -1"),
        ({"format": "torch", "width": 9.5}, "width must be a whole number of at least 1, got 9.5"),
        ({"format": "torch", "width": "9"}, "width must be a whole number of at least 1, got '9'"),
        ({"format": "torch", "classes": ["a"]}, "classes has 2 names"),
        (
            {"format": "torch", "transform": False, "width": 100},
            "width without transform must be a multiple of 32, got 100",
        ),
    ],
)
def test_bad_input_is_refused(tiny, options, message, tmp_path):
    name = options.pop("name", "m.onnx" if options["format"] == "onnx" else "m.pt2")
    with pytest.raises(ValueError, match=message):
        export(tiny, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="model must be a FasterRCNN or a path, got Linear"):
        export(torch.nn.Linear(1, 1), tmp_path / "m.pt2", format="torch")
    with pytest.raises(ValueError, match=r"checkpoint .*none\.pt: no such file"):
        export(tmp_path / "none.pt", tmp_path / "m.pt2", format="torch")


class Undecided(torch.nn.Module):
    """A backbone whose way depends on what it sees, which no export can hold."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.strides, self.out_channels = backbone.strides, backbone.out_channels

    def forward(self, images):
        return self.backbone(images if images.mean() > 0 else -images)


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_what_cannot_be_exported_is_refused_in_one_line(format, tmp_path, capfd):
    model = faster_rcnn("tiny", 3)
    model.backbone = Undecided(model.backbone)
    path = tmp_path / ("m.onnx" if format == "onnx" else "m.pt2")
    path.write_bytes(b"the last good one")
    with pytest.raises(ValueError, match=f"cannot be exported as {format}: .") as error:
        export(model, path, format=format)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # torch would print the program as far as it came
    assert model.training  # as it was before
    assert path.read_bytes() == b"the last good one" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_is_refused(method, format, tmp_path):
    path = tmp_path / ("m.onnx" if format == "onnx" else "m.pt2")
    with pytest.raises(ValueError, match=f'box_nms must be "hard" to export, got "{method}": how'):
        export(faster_rcnn("tiny", 3, box_nms=method), path, format=format)
    assert not path.exists()


def same_padding():
    pytest.importorskip("timm")
    name = "timm:tf_efficientnet_lite0"
    return detector(name, fpn_strides=(4, 8, 16), fpn_channels=64)


@pytest.mark.parametrize("size", [{}, {"height": 160}, {"width": 200}])
def test_a_network_that_pads_by_size_wants_a_fixed_one(size, tmp_path):
    with pytest.raises(ValueError, match="height and width must be given: the network pads"):
        export(same_padding(), tmp_path / "m.pt2", format="torch", **size)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_network_that_pads_by_size_of_a_fixed_one(format, tmp_path):
    model, path = same_padding(), tmp_path / ("m.onnx" if format == "onnx" else "m.pt2")
    export(model, path, format=format, height=160, width=200)
    images = [torch.rand(3, 160, 200) for _ in range(3)]
    with torch.no_grad():
        expected = [model([image])[0] for image in images]
    assert sum(len(result["scores"]) for result in expected) > 50
    assert sum(map(unmatched, ExportedModel(path)(images), expected)) == 0


def test_an_unknown_runtime_is_refused(exported):
    with pytest.raises(ValueError, match="runtime must be one of onnxruntime, openvino, got 'trt'"):
        ExportedModel(exported("onnx"), runtime="trt")


def test_files_that_are_no_exported_model(tiny, exported, tmp_path):
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(exported("torch").read_bytes()[:1000])
    foreign = tmp_path / "foreign.pt2"
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(program, foreign)
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"no ONNX")
    for path, message in [
        (broken, "no .pt2 archive"),
        (foreign, "not exported by fastrpn"),
        (noise, "cannot be opened"),
        (tmp_path / "none.onnx", "no such file"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            ExportedModel(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
