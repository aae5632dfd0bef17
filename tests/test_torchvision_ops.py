"""fastrpn.torchvision_ops: torchvision's operators where its own library cannot be loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torchvision = pytest.importorskip("torchvision")

SCHEMAS = """
import torch
print(sorted(str(s) for s in torch._C._jit_get_all_schemas() if s.name.startswith("torchvision::")))
"""
DETECT = """
import fastrpn.torchvision_ops
import torch, torchvision
from torchvision.models import detection
torch.manual_seed(0)
model = detection.fasterrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0, min_size=96,
    max_size=128)
image = torch.rand(3, 96, 128)
print(fastrpn.torchvision_ops.is_needed())
found = model.eval()([image])[0]
targets = [{"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([1])}]
sum(model.train()([image], targets).values()).backward()
gradient = model.backbone.fpn.inner_blocks[0][0].weight.grad
torch.save((found, gradient), "result.pt")
"""


@pytest.fixture
def broken(tmp_path):
    """A folder with a torchvision whose library is no library."""
    source = Path(torchvision.__file__).parent
    ignored = shutil.ignore_patterns("_C*.so", "__pycache__")
    shutil.copytree(source, tmp_path / "torchvision", ignore=ignored)
    for path in source.glob("_C*.so"):
        (tmp_path / "torchvision" / path.name).write_text("not ELF")
    return tmp_path


def python(code, folder):
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def lines(code, folder):
    returncode, output, errors = python(code, folder)
    assert returncode == 0, errors
    return output.splitlines()


def test_without_it_torchvision_fails(broken):
    _, _, errors = python("import torchvision", broken)
    assert errors.splitlines()[-1] == "RuntimeError: operator torchvision::nms does not exist"


@pytest.mark.parametrize("library", ["broken", "missing"])
def test_a_detector_finds_and_learns_the_same(broken, tmp_path_factory, library):
    if library == "missing":
        for path in broken.glob("torchvision/_C*.so"):
            path.unlink()
    whole = tmp_path_factory.mktemp("whole")
    assert lines(DETECT, broken) == ["True"]
    assert lines(DETECT, whole) == ["False"]
    (ours, gradient), (theirs, wanted) = (torch.load(f / "result.pt") for f in (broken, whole))
    assert len(theirs["boxes"]) > 10
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_the_schemas_are_torchvisions(broken, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    assert lines("import fastrpn.torchvision_ops, torchvision" + SCHEMAS, broken) == lines(
        "import torchvision" + SCHEMAS, whole
    )


def test_after_an_import_that_failed(broken):
    code = """
try:
    import torchvision
except RuntimeError:
    import fastrpn.torchvision_ops
import torch, torchvision
boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
print(torchvision.ops.nms(boxes, boxes[:, 3], 0.5).tolist())
print(torch.jit.script(torchvision.ops.nms)(boxes, boxes[:, 3], 0.5).tolist())
"""
    assert lines(code, broken) == ["[0]", "[0]"]


def test_the_kernels_stay_when_the_acceleration_ends(broken):
    code = """
import fastrpn.torchvision_ops
import fastrpn, torch, torchvision
boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]])
with fastrpn.accelerate_torchvision():
    pass
print(torchvision.ops.nms(boxes, boxes[:, 3], 0.5).tolist())
"""
    assert lines(code, broken) == ["[0]"]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("ps_roi_pool", "ps_roi_pool(features, rois, 2)"),
        ("ps_roi_align", "ps_roi_align(features, rois, 2)"),
        (
            "deform_conv2d",
            "deform_conv2d(features, torch.rand(1, 18, 8, 8), features[..., :3, :3])",
        ),
    ],
)
def test_what_is_not_offered_says_so(broken, name, call):
    code = f"""
import fastrpn.torchvision_ops
import torch, torchvision
features, rois = torch.rand(1, 4, 10, 10), torch.tensor([[0.0, 0, 0, 9, 9]])
torchvision.ops.{call}
"""
    returncode, _, errors = python(code, broken)
    last = errors.splitlines()[-1]
    assert returncode == 1
    assert last.startswith(
        f"NotImplementedError: torchvision::{name}: fastrpn has no kernel for it"
    )
    assert "_C" in last  # the cause names the library


def test_an_older_torchvision_is_refused(broken):
    (broken / "torchvision" / "_autograd_registrations.py").unlink()
    returncode, _, errors = python("import fastrpn.torchvision_ops", broken)
    assert returncode == 1 and "this one is older" in errors.splitlines()[-1]


def test_nothing_changes_where_torchvision_loads(tmp_path):
    code = """
import torch, torchvision
before = torch._C._dispatch_dump("torchvision::nms")
import fastrpn.torchvision_ops
print(torch._C._dispatch_dump("torchvision::nms") == before, fastrpn.torchvision_ops.is_needed())
"""
    assert lines(code, tmp_path) == ["True False"]
