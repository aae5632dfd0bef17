"""The commands as a user types them, on a data set of a few small images."""

import json
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from fastrpn import info
from fastrpn.cli import COMMANDS, main
from fastrpn.commands import app
from fastrpn.data import ProposalSet, generate_synthetic
from fastrpn.models.checkpoint import load_model
from fastrpn.models.torchvision_detectors import COCO_CLASSES

TRAIN = ["--model", "tiny", "--steps", "2", "--batch-size", "2", "--warmup-steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    generate_synthetic(root, num_train=4, num_val=2, image_size=(96, 96), progress=False)
    return root


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    main(["train", "--data", str(data), "--output", str(output), "--no-progress", *TRAIN])
    return output / "last.pt"


def test_train_writes_a_checkpoint_and_a_history(checkpoint):
    assert checkpoint.is_file()
    lines = checkpoint.with_name("history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_eval_prints_a_table_and_writes_all_numbers(checkpoint, data, tmp_path, capsys):
    report = tmp_path / "metrics.json"
    command = ["eval", "--checkpoint", str(checkpoint), "--data", str(data)]
    main([*command, "--output", str(report)])
    printed = capsys.readouterr().out
    assert "VOC 11-point" in printed and "small" in printed
    metrics = json.loads(report.read_text())
    assert {"AP", "AP50", "voc_ap_area", "per_class"} <= set(metrics)
    assert metrics["num_images"] == 2
    main([*command, "--max-detections", "1"])
    with pytest.raises(SystemExit) as end:
        main([*command, "--max-detections", "0"])
    assert end.value.code == 2


def test_train_and_eval_on_coco_and_on_several_sets(data, tmp_path, capsys):
    from pycocotools.coco import COCO  # the file is COCO's: its own reader takes it

    from fastrpn.data import VOCDataset

    voc = VOCDataset(data, "train")
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(_as_coco(voc)))
    assert len(COCO(file).anns) == sum(len(sample.boxes) for sample in voc.samples)
    sets = [f"{data / 'JPEGImages'}:{file}", "val"]
    output = tmp_path / "run"
    options = ["--data", str(data), "--train-set", *sets, "--val-set", sets[0]]
    options += ["--short-sides", "64", "80", "--color-jitter", "0.4", "0.4", "0.4", "0.1"]
    options += ["--workers", "1", "--no-group-by-shape"]
    main(["train", *options, "--output", str(output), "--no-progress", *TRAIN])
    report = tmp_path / "metrics.json"
    command = ["eval", "--checkpoint", str(output / "last.pt"), "--data", str(data)]
    main([*command, "--image-set", *sets, "--precision", "bf16", "--output", str(report)])
    assert json.loads(report.read_text())["num_images"] == 6


def _as_coco(dataset):
    annotations = [
        {
            "image_id": sample.image_id + 1,
            "category_id": int(label) * 10,
            "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
            "iscrowd": int(ignore),
        }
        for sample in dataset.samples
        for box, label, ignore in zip(sample.boxes, sample.labels, sample.ignore, strict=True)
    ]
    return {
        "images": [{"id": s.image_id + 1, "file_name": s.image_path.name} for s in dataset.samples],
        "categories": [{"id": i * 10, "name": n} for i, n in enumerate(dataset.classes) if i],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(annotations)],
    }


def test_detect_writes_pictures_and_coco_results(checkpoint, data, tmp_path):
    images = data / "JPEGImages"
    command = ["detect", "--checkpoint", str(checkpoint), "--score-threshold", "0"]
    main([*command, "--output", str(tmp_path), str(images)])
    names = {path.stem for path in images.iterdir()}
    assert {path.stem for path in tmp_path.glob("*.jpg")} == names
    results = json.loads((tmp_path / "detections.json").read_text())
    assert results
    for result in results:
        assert set(result) == {"image_id", "category_id", "bbox", "score"}
        x, y, width, height = result["bbox"]
        assert 0 <= x <= x + width <= 96 and 0 <= y <= y + height <= 96


def test_export_writes_a_file_that_detect_runs(checkpoint, data, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    images, found = data / "JPEGImages", {}
    exported = tmp_path / "m.onnx"
    main(["export", str(checkpoint), "--format", "onnx", "--output", str(exported)])
    assert f"wrote {exported}: " in capsys.readouterr().out
    for model in (exported, checkpoint):
        output = tmp_path / model.suffix[1:]
        command = ["detect", "--checkpoint", str(model), "--output", str(output)]
        main([*command, "--score-threshold", "0.1", str(images)])
        found[model] = json.loads((output / "detections.json").read_text())
    assert len(found[exported]) == len(found[checkpoint]) > 0


@pytest.fixture(scope="module")
def torchvisions_checkpoint(tmp_path_factory):
    """Random weights in the shapes of the published ones."""
    detection = pytest.importorskip("torchvision.models.detection")
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    path = tmp_path_factory.mktemp("torchvision") / "fasterrcnn_resnet50_fpn_coco.pth"
    torch.save(model.state_dict(), path)
    return path


def test_a_state_dict_of_torchvision_detects_at_once(torchvisions_checkpoint, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    coco = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 40}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 90, "bbox": [5, 5, 20, 20]}],
        "categories": [
            {"id": i, "name": name}
            for i, name in enumerate(COCO_CLASSES)
            if i and not name.startswith("N/A")
        ],
    }
    (tmp_path / "photos" / "_annotations.coco.json").write_text(json.dumps(coco))
    checkpoint = ["--checkpoint", str(torchvisions_checkpoint)]
    detect = ["detect", *checkpoint, "--output", str(tmp_path / "out"), "--score-threshold", "0"]
    ids = ["--ids", str(tmp_path / "photos" / "_annotations.coco.json")]
    main([*detect, *ids, str(tmp_path / "photos" / "a.png")])
    written, line = capsys.readouterr()
    assert "objects in 1 images" in written
    assert line.count("names of COCO's 90 classes") == 1
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {result["image_id"] for result in results} <= {7}
    report = tmp_path / "metrics.json"
    main(["eval", *checkpoint, "--data", ids[1], "--output", str(report)])
    assert "toothbrush" in json.loads(report.read_text())["per_class"]


def test_export_weights_writes_a_file_that_commands_take(checkpoint, data, tmp_path, capsys):
    output = tmp_path / "weights.safetensors"
    main(["export-weights", str(checkpoint), "--output", str(output)])
    assert f"wrote {output}: " in capsys.readouterr().out
    assert output.stat().st_size < 0.6 * checkpoint.stat().st_size  # without the optimizer
    printed = []
    for path in (checkpoint, output):
        main(["eval", "--checkpoint", str(path), "--data", str(data)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    run = ["train", "--data", str(data), "--output", str(tmp_path / "run"), "--no-progress"]
    main([*run, *TRAIN, "--weights", str(output)])
    with pytest.raises(SystemExit) as stop:
        main(["export-weights", str(checkpoint), "--output", str(tmp_path / "weights.pt")])
    assert stop.value.code == 2
    assert "weights.pt: must end with .safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "m.pt"], "path of format torch must end in .pt2, got m.pt"),
        (
            ["--output", "m.pt2", "--width", "0"],
            "width must be a whole number of at least 1, got 0",
        ),
        (["--output", "m.pt2", "--format", "caffe"], "caffe"),
    ],
)
def test_export_says_what_is_wrong_in_one_line(checkpoint, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(checkpoint), "--format", "torch", *options])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_detect_stops_at_or_skips_an_unreadable_image(checkpoint, tmp_path, capsys):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), np.zeros((64, 64, 3), np.uint8))
    bad.write_bytes(b"no picture")
    command = ["detect", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([*command, str(bad), str(good)])
    assert stop.value.code == 2
    assert str(bad) in capsys.readouterr().err
    main([*command, "--on-bad-data", "skip", str(bad), str(good)])
    assert str(bad) in capsys.readouterr().err
    assert (tmp_path / "out" / "good.jpg").is_file()


def test_anchors_draws_the_nine(tmp_path, capsys):
    main(["anchors", "--output", str(tmp_path / "anchors.png")])
    picture = cv2.imread(str(tmp_path / "anchors.png"))
    assert picture is not None and picture.shape[0] > 600 and picture.shape[1] > 800
    lines = [line for line in capsys.readouterr().out.splitlines() if " x " in line]
    areas = [float(w) * float(h) for w, h in (line.split("(")[0].split("x") for line in lines)]
    np.testing.assert_allclose(areas, [128**2, 256**2, 512**2] * 3, rtol=1e-2)


def test_proposals_to_train_and_to_evaluate_on(checkpoint, data, tmp_path, capsys):
    files = {name: str(tmp_path / f"{name}.npz") for name in ("train", "val")}
    command = ["proposals", "--checkpoint", str(checkpoint), "--data", str(data), "--limit", "20"]
    for name, file in files.items():
        main([*command, "--image-set", name, "--output", file, "--recall"])
    printed = capsys.readouterr().out
    assert "proposals an image" in printed and "| rpn " in printed
    assert len(ProposalSet.load(files["train"])) == 4

    command = ["train", "--data", str(data), "--output", str(tmp_path / "run"), "--no-progress"]
    main([*command, "--proposals", files["train"], "--val-proposals", files["val"], *TRAIN])
    fast_rcnn = str(tmp_path / "run" / "last.pt")
    command = ["eval", "--checkpoint", fast_rcnn, "--data", str(data), "--proposals"]
    main([*command, files["val"], "--output", str(tmp_path / "metrics.json")])
    assert json.loads((tmp_path / "metrics.json").read_text())["num_images"] == 2
    with pytest.raises(SystemExit):  # the training set has more images
        main([*command, files["val"], "--image-set", "train"])
    assert "lack 2 of the data set's images" in capsys.readouterr().err


def test_anchors_tells_what_a_model_does_not_see(tmp_path, capsys):
    main(["anchors", "--model", "vgg16", "--gradient", "--output", str(tmp_path / "field.png")])
    lines = capsys.readouterr().out.splitlines()
    assert "196×196" in lines[2] and lines[2].count("228×228") == 2  # arithmetic and gradient
    rows = [line.split("|") for line in lines[6:15]]
    assert [row[-2].strip() for row in rows] == ["yes", "no", "no"] * 3
    assert "6 of 9 anchors reach out of the receptive field" in lines
    assert cv2.imread(str(tmp_path / "field.png")) is not None


def test_anchors_of_a_data_set_train_a_model(data, tmp_path, capsys):
    picture = tmp_path / "design.png"
    options = ["--data", str(data), "--val-set", "val", "--number", "3", "--model", "tiny"]
    main(["anchors", *options, "--output", str(picture)])
    out = capsys.readouterr().out
    assert "designed, IoU 0.5" in out and "designed, IoU 0.7" in out and "IoU 0.7: " in out
    assert cv2.imread(str(picture)) is not None
    (line,) = [line for line in out.splitlines() if line.startswith("train with: ")]
    arguments = shlex.split(line.removeprefix("train with: "))
    output = ["--data", str(data), "--output", str(tmp_path / "run"), "--no-progress"]
    main(["train", *output, *arguments, *TRAIN])
    model, _ = load_model(tmp_path / "run" / "last.pt")
    assert model.config.anchor_shapes is not None and model.rpn.anchors.per_position == 3


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["train", "--data", "nowhere", "--output", "out"], "nowhere"),
        (["train", "--data", "nowhere", "--output", "out", "--lr", "-1"], "lr must be positive"),
        (["proposals", "--data", "nowhere", "--output", "rpn.npz"], "needs a --checkpoint"),
        (["eval", "--checkpoint", "missing.pt", "--data", "nowhere"], "missing.pt"),
        (["detect", "--checkpoint", "missing.pt", "x.jpg"], "missing.pt"),
        (["anchors", "--model", "vgg61"], "name must be one of vgg16"),
        (["anchors", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_with_one_line(command, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("fastrpn: error: ") and named in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        (["--model-options", "min_size=abc"], 2, "min_size must be int, got 'abc'"),
        (["--model-options", "preset=paper"], 2, "model_options must be fields"),
        (["--device", "cuda:99"], 2, "device 'cuda:99' cannot be used"),
        (["--device", "abacus"], 2, "device 'abacus' cannot be used"),
        (["--lr", "1e30", "--clip-grad-norm", "1e30", "--no-rehearsal"], 1, "non-finite loss at"),
    ],
)
def test_a_training_that_cannot_go_on_ends_with_one_line(
    data, tmp_path, capsys, options, status, named
):
    command = ["train", "--data", str(data), "--output", str(tmp_path), "--no-progress"]
    with pytest.raises(SystemExit) as stop:
        main([*command, *TRAIN, "--steps", "6", *options])
    assert stop.value.code == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("fastrpn: error: ") and named in line


def test_checkpoint_of_another_model_is_refused(checkpoint, data, capsys):
    command = ["train", "--data", str(data), "--output", str(checkpoint.parent), "--resume"]
    with pytest.raises(SystemExit):
        main([*command, "--model", "vgg16", "--no-progress"])
    assert "tiny" in capsys.readouterr().err


def test_info_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fastrpn", "info", "--json"], capture_output=True, text=True
    )
    facts = json.loads(done.stdout)
    assert facts["SIMD in use"] in facts["SIMD compiled"]
    assert facts["GPU used"] == "yes" or facts["GPU used"].startswith("no: ")


@pytest.mark.parametrize("modules", ["", "-contrib"])
@pytest.mark.parametrize("kind", ["", "-headless"])
def test_info_knows_every_opencv(modules, kind, monkeypatch):
    installed = {f"opencv{modules}-python{kind}": "4.1"}
    monkeypatch.setattr(info, "_version_of", installed.get)
    assert info._opencv() == "4.1"


def test_every_command_is_listed_and_every_option_explained():
    commands = {name for name in app if not name.startswith("-")}
    assert set(COMMANDS) == commands | {"info"}
    seen = {}
    for name in commands:
        for option in app[name].assemble_argument_collection(parse_docstring=True):
            if option.field_info.name != "settings":
                assert option.parameter.help, f"{name} {option.name}"
                seen.setdefault(option.name, set()).add(name)
    assert {"train", "eval", "detect", "proposals"} <= seen["--device"]
    assert {"train", "eval", "proposals", "anchors"} <= seen["--data"]


def test_help_answers_without_torch():
    code = "import sys; from fastrpn.cli import main\ntry: main(['--help'])\nfinally:"
    code += " assert 'torch' not in sys.modules and 'cyclopts' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ([], "command"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--lr", "fast"], "--lr"),
        (["train", "--lrr", "1"], "Did you mean --lr?"),
        (["train", "--schedule", "joined"], '"joint", "alternating"'),
        (["train", "--model-options", "min_size"], "'min_size' is not KEY=VALUE"),
        (["train", "stray"], "stray"),
        (["detect", "--checkpoint"], "--checkpoint"),
        (["eval", "--data", "x"], "--checkpoint"),
    ],
)
def test_a_bad_option_ends_with_one_line(command, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and line.startswith("fastrpn: error: ") and named in line
