"""Layers in 8 bits: nearly the same detections, in standard ONNX, calibrated with images."""

import json

import pytest
import torch

from fastrpn.cli import main
from fastrpn.deployment import ExportedModel, export
from fastrpn.images import write_image
from fastrpn.inference import Predictor
from fastrpn.models.checkpoint import save_weights
from fastrpn.ops import box_iou
from tests.deployment.detectors import images_of_mixed_sizes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def int8(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    return export(tiny, path, format="onnx", int8=iter(images_of_mixed_sizes(20)))


def share_found(found, expected):
    """Of the detections of score 0.5 and more, those found again: same label, IoU 0.7."""
    sure = expected["scores"] >= 0.5
    same = box_iou(expected["boxes"][sure], found["boxes"]) >= 0.7
    same &= expected["labels"][sure][:, None] == found["labels"]
    return same.any(1).float().mean()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_finds_what_the_model_finds(tiny, int8, runtime):
    pytest.importorskip(runtime)
    images = images_of_mixed_sizes(30)[20:]  # others than those of the calibration
    detect = Predictor(int8, backend=runtime)
    with torch.no_grad():
        expected = [tiny([image])[0] for image in images]
    assert sum(int((result["scores"] >= 0.5).sum()) for result in expected) > 50
    shares = [share_found(detect(image), e) for image, e in zip(images, expected, strict=True)]
    assert sum(shares) / len(shares) > 0.65  # the last layers of this model magnify its features


def test_its_layers_are_in_8_bits_and_it_says_what_it_is(tiny, int8, exported):
    model = onnx.load(int8)
    assert {node.domain for node in model.graph.node} == {""}  # standard operators
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == sum(
        isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in tiny.modules()
    )
    in_float = [node for node in layers if made_by.get(node.input[1]) != "DequantizeLinear"]
    assert len(in_float) == 1 + 2 + 2 and in_float[0] is layers[0]  # the first, of RPN and box head
    for layer in layers:
        if layer not in in_float:
            assert [made_by[name] for name in layer.input[:2]] == ["DequantizeLinear"] * 2
    plain = exported("onnx")
    assert int8.stat().st_size < plain.stat().st_size / 3
    ours, theirs = (ExportedModel(path).metadata for path in (int8, plain))
    assert ours.config == theirs.config and ours.size == theirs.size


@pytest.mark.parametrize("batch", [None, 2])
def test_of_fixed_size_images_are_resized_to_it(tiny, batch, tmp_path):
    images = images_of_mixed_sizes(4)
    fixed = {"height": 96, "width": 128, "batch": batch}
    path = export(tiny, tmp_path / "f.onnx", format="onnx", int8=images, **fixed)
    image = torch.nn.functional.interpolate(images[0][None], (96, 128))[0]
    with torch.no_grad():
        assert share_found(ExportedModel(path)([image])[0], tiny([image])[0]) > 0.5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "torch", "int8": [torch.rand(3, 90, 90)]}, "int8 takes format onnx"),
        ({"format": "onnx", "int8": [torch.rand(3, 90, 90)], "transform": False}, "transform"),
        ({"format": "onnx", "int8": []}, "images to calibrate with, got none"),
        ({"format": "onnx", "int8": [torch.rand(90, 90)]}, r"int8\[0\] must be \[3, H, W\]"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_no_file(tiny, options, message, tmp_path):
    path = tmp_path / ("m.pt2" if options["format"] == "torch" else "m.onnx")
    with pytest.raises(ValueError, match=message):
        export(tiny, path, **options)
    assert not list(tmp_path.iterdir())


def test_from_the_command_line(tiny, int8, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "int8.onnx"
    for i, image in enumerate(images_of_mixed_sizes(20)):
        write_image(photos / f"{i:02}.png", (image * 255).byte().permute(1, 2, 0).numpy())
    (photos / "notes.txt").write_text("no picture")
    weights = save_weights(tmp_path / "w.safetensors", tiny, "tiny", ["__background__", *"abc"])
    command = ["export", str(weights), "--format", "onnx", "--output", str(output)]
    main([*command, "--int8", str(photos)])
    assert abs(output.stat().st_size / int8.stat().st_size - 1) < 0.01
    main(["detect", str(photos), "--checkpoint", str(output), "--output", str(tmp_path / "found")])
    assert json.loads((tmp_path / "found/detections.json").read_text())


def test_a_folder_without_pictures_is_refused_before_the_export(tiny, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"")
    weights = save_weights(tmp_path / "w.safetensors", tiny, "tiny", ["__background__", *"abc"])
    output = tmp_path / "int8.onnx"
    with pytest.raises(SystemExit) as end:
        main(
            [
                *("export", str(weights), "--format", "onnx", "--output", str(output)),
                *("--int8", str(tmp_path)),
            ]
        )
    assert end.value.code == 2
    assert f"int8 {tmp_path}: no picture in it" in capsys.readouterr().err
    assert not output.exists()
