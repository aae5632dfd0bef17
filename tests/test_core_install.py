"""Where only torch and NumPy are: what works, and what names the line that brings the rest."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import fastrpn
from fastrpn import _extras

PACKAGE = Path(fastrpn.__file__).parent


def required(name):
    """A distribution and what it needs, without extras."""
    found, waiting = set(), [name]
    while waiting:
        name = re.match(r"[\w.-]+", waiting.pop())[0]
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for other machines
        if name not in found:
            found.add(name)
            waiting += [line for line in lines if "extra ==" not in line]
    return found


def environment(folder, *names):
    """A folder that has these distributions alone, and fastrpn."""
    for name in set().union(*map(required, names)):
        for file in metadata.files(name) or []:
            top = file.parts[0]
            place = Path(metadata.distribution(name).locate_file(top)).resolve()
            if top != ".." and place.exists() and not (folder / top).exists():
                (folder / top).symlink_to(place)
    (folder / "fastrpn").symlink_to(PACKAGE)
    return folder


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("core"), "torch", "numpy")


def run(folder, code):
    """Runs Python that finds nothing but the folder and the standard library."""
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); "
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-S", "-I", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, env=kept)


@pytest.mark.parametrize(
    "code",
    [
        "from fastrpn import ops; import torch; b = torch.tensor([[0., 0, 9, 9]]); "
        "print(ops.nms(b, b[0, :1], 0.5).tolist())",
        "import fastrpn, torch; m = fastrpn.faster_rcnn('tiny', 3).eval(); "
        "print(m([torch.rand(3, 64, 64)])[0].keys() and [0])",
        "import fastrpn.numpy, numpy; b = numpy.array([[0., 0, 9, 9]], 'f'); "
        "assert 'torch' not in sys.modules; print(fastrpn.numpy.nms(b, b[0, :1], 0.5).tolist())",
        "import fastrpn, os; m = fastrpn.faster_rcnn('tiny', 3); print(fastrpn.export and [0])",
    ],
    ids=["ops", "model", "numpy", "export"],
)
def test_what_works_with_torch_and_numpy_alone(core, code):
    done = run(core, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0]\n"


def test_the_front_end_for_numpy_needs_no_torch(tmp_path):
    folder = environment(tmp_path, "numpy")
    done = run(folder, "import torch")
    assert "No module named 'torch'" in done.stderr
    done = run(
        folder,
        "import numpy, fastrpn.numpy as f; b = numpy.array([[0., 0, 9, 9], [0, 0, 9, 8]], 'f'); "
        "print(f.nms(b, b[:, 3], 0.5).tolist(), f.box_iou(b, b).shape)",
    )
    assert (done.returncode, done.stdout) == (0, "[0] (2, 2)\n"), done.stderr


def test_info_works(core):
    code = "sys.argv = ['fastrpn', 'info', '--json']; from fastrpn.cli import main; main()"
    done = run(core, code)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["fastrpn"] == fastrpn.__version__ and facts["OpenCV"] is None


TRAIN = r"not installed; .*pip install 'fastrpn\[train\]'"


@pytest.mark.parametrize(
    "code",
    [
        *(f"import fastrpn; fastrpn.{name}" for name in ("train", "evaluate", "Predictor")),
        *(f"import fastrpn.{name}" for name in ("data", "drawing", "images", "analysis", "demo")),
        "from fastrpn.models.checkpoint import save_weights; import fastrpn; "
        "save_weights('w.safetensors', fastrpn.faster_rcnn('tiny', 2), 'tiny', ['b', 'c'])",
    ],
)
def test_what_is_missing_is_named_with_its_cure(core, code):
    done = run(core, code)
    assert done.returncode == 1
    assert re.fullmatch(f"ImportError: .*{TRAIN}", done.stderr.splitlines()[-1])


@pytest.mark.parametrize("command", ["train", "detect", "demo", "export"])
def test_commands_name_it_in_one_line(core, command):
    done = run(core, f"sys.argv = ['fastrpn', {command!r}]; from fastrpn.cli import main; main()")
    assert done.returncode == 2
    assert re.fullmatch(f"fastrpn: error: .*{TRAIN}\n", done.stderr)


def test_an_onnx_file_names_its_packages(core, tmp_path):
    path = str(tmp_path / "m.onnx")
    model = "fastrpn.faster_rcnn('tiny', 2)"
    done = run(core, f"import fastrpn; fastrpn.export({model}, {path!r}, format='onnx')")
    wanted = r"ImportError: onnx, onnxscript: .*pip install 'fastrpn\[export\]'"
    assert re.fullmatch(wanted, done.stderr.splitlines()[-1])


def test_the_extras_bring_what_is_asked_for():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fastrpn": "fastrpn.cli:main"}
    names = [re.match(r"[\w-]+", line)[0] for line in project["dependencies"]]
    assert sorted(names) == ["numpy", "torch"]
    extra = project["optional-dependencies"]["without-opencv"]
    brought = {re.match(r"[\w-]+", line)[0] for line in extra}
    by_import = {"PIL": "pillow", "yaml": "pyyaml"}
    assert {by_import.get(name, name) for name in _extras._TRAIN} - {"cv2"} <= brought
