"""What the documentation shows runs: its commands and its Python, in order, on small stand-ins."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from fastrpn import cli
from fastrpn.commands import app
from fastrpn.data import VOCDataset, generate_synthetic
from fastrpn.images import read_image
from fastrpn.inference.writers import VideoWriter

ROOT = Path(__file__).resolve().parents[1]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
RUN = {"train", "eval", "detect", "anchors", "export", "info"}  # the others: options are checked
SLOW = {"alternating", "aoti"}  # commands with one of these are not run either
QUICK = ["--model", "tiny", "--steps", "1", "--batch-size", "2", "--warmup-steps", "1"]
QUICK += ["--no-progress", "--no-rehearsal", "--pictures", "0"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data sets, photos and a video under the names that the documentation uses."""
    root = tmp_path_factory.mktemp("docs")
    voc = root / "VOC2007"
    generate_synthetic(voc, 4, 2, seed=0, image_size=(64, 80), progress=False)
    sets = voc / "ImageSets" / "Main"
    for name, known in (("trainval", "train"), ("test", "val")):
        shutil.copy(sets / f"{known}.txt", sets / f"{name}.txt")
    shutil.copytree(voc, root / "VOC2012")
    for name in ("train2017", "val2017"):
        write_coco(VOCDataset(voc, "train"), root / "coco", name)
    write_yolo(VOCDataset(voc, "train"), root / "trees")
    write_labelme(VOCDataset(voc, "train"), root / "labelled")
    images = sorted((voc / "JPEGImages").iterdir())[:2]
    (root / "photos").mkdir()
    for image, name in zip(images, ("a.jpg", "b.jpg"), strict=True):
        shutil.copy(image, root / "photos" / name)
    with VideoWriter(root / "clip.mp4", 10) as video:
        for image in images:
            video.write(read_image(image))
    return root


def write_coco(dataset, root, name):
    shutil.copytree(dataset.root / "JPEGImages", root / name)
    content = {
        "images": [{"id": s.image_id, "file_name": s.image_path.name} for s in dataset.samples],
        "categories": [{"id": i, "name": c} for i, c in enumerate(dataset.classes) if i],
        "annotations": [
            {"image_id": s.image_id, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for s in dataset.samples
            for (x1, y1, x2, y2), label in zip(s.boxes.tolist(), s.labels, strict=True)
        ],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def write_yolo(dataset, root):
    for sample in dataset.samples:
        height, width = sample.size
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "labels").mkdir(exist_ok=True)
        shutil.copy(sample.image_path, root / "images")
        lines = [
            f"{label - 1} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
            for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels, strict=True)
        ]
        (root / "labels" / f"{sample.image_path.stem}.txt").write_text("".join(lines))
    described = {"train": "images", "val": "images", "names": dataset.classes[1:]}
    (root / "data.yaml").write_text(json.dumps(described))


def write_labelme(dataset, root):
    root.mkdir()
    for sample in dataset.samples:
        shutil.copy(sample.image_path, root)
        shapes = [
            {"label": dataset.classes[label], "points": [box[:2], box[2:]]}
            for box, label in zip(sample.boxes.tolist(), sample.labels, strict=True)
        ]
        content = {"shapes": shapes, "imagePath": sample.image_path.name}
        (root / f"{sample.image_path.stem}.json").write_text(json.dumps(content))


DOCUMENTS = [
    "README.md",
    "docs/data.md",
    "docs/deployment.md",
    "docs/evaluation.md",
    "docs/faq.md",
    "docs/models.md",
    "docs/tour.md",
    "docs/training.md",
]
COMMANDS_ONLY = ["docs/fine_tuning.md", "docs/install.md"]
PARSED = {"docs/fine_tuning.md"}  # no small stand-in for its networks: options are checked
PYTHON_ONLY = {"docs/training.md"}  # its commands are the paper's trainings


@pytest.mark.parametrize("name", DOCUMENTS + COMMANDS_ONLY)
def test_documentation_runs(name, files, monkeypatch):
    needed = {"docs/models.md": "timm", "docs/deployment.md": "onnxscript"}
    if name in needed:
        pytest.importorskip(needed[name])
    monkeypatch.chdir(files)
    torch.manual_seed(0)
    variables = {"__name__": "documentation"}
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", (ROOT / name).read_text(), re.M | re.S)
    assert blocks and (name in COMMANDS_ONLY or "python" in dict(blocks))
    for language, text in blocks:
        if language == "python":
            exec(compile(text, name, "exec"), variables)
        elif name not in PYTHON_ONLY:
            for line in text.splitlines():
                run_command(shlex.split(line, comments=True), runs=name not in PARSED)


def run_command(words, runs):
    """Runs a line of a shell if it is a quick command of fastrpn, or checks its options."""
    arguments = words[words.index("fastrpn") + 1 :] if "fastrpn" in words else []
    if not arguments:
        return
    if "--weights" in arguments:  # of the model that "tiny" stands in for
        at = arguments.index("--weights")
        del arguments[at : at + 2]
    if runs and words[0] == "fastrpn" and arguments[0] in RUN and not SLOW & set(arguments):
        cli.main(arguments + (QUICK if arguments[0] == "train" else []))
    else:
        app.parse_args(arguments, exit_on_error=False, print_error=False)


OTHERS = {"--no-deps", "--force-reinstall", "--nproc-per-node", "--build", "--fmad", "--help"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_every_option_that_a_page_names_exists(path):
    """Ours, those of the repository's own scripts, or a few of pip, torchrun, cmake and nvcc."""
    commands = [name for name in app if not name.startswith("-")]
    ours = {n for c in commands for a in app[c].assemble_argument_collection() for n in a.names}
    files = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("benchmarks/*.sh")]
    files += ROOT.glob("tests/packaging/*.py")
    scripts = {option for file in files for option in OPTION.findall(file.read_text())}
    assert len(ours) > 100 and len(scripts) > 20
    assert set(OPTION.findall(path.read_text())) <= ours | scripts | OTHERS
