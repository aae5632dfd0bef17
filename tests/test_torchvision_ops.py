"""torchvision's operators where its own library cannot load: here one that is kept from loading."""

import subprocess
import sys

import pytest

torchvision = pytest.importorskip("torchvision")

BROKEN = """\
import sys, torch
load = torch.ops.load_library
def refuse(path):
    if "torchvision" in str(path) and "fastrpn" not in str(path):
        raise OSError("undefined symbol")
    load(path)
torch.ops.load_library = refuse
"""

EXACT = """\
import torchvision
from torchvision import ops
torch.manual_seed(0)
boxes = torch.rand(300, 4, dtype=torch.float64) * 50
boxes[:, 2:] += boxes[:, :2]
print(ops.nms(boxes, boxes[:, 0], 0.4).tolist())
print(ops.batched_nms(boxes, boxes[:, 0], (boxes[:, 1] > 20).long(), 0.4).tolist())
rois = torch.cat([torch.zeros(300, 1).double(), boxes], 1)
images = torch.rand(1, 3, 30, 40, dtype=torch.float64, requires_grad=True)
for pool in (ops.RoIAlign(4, 0.5, 2), ops.RoIAlign(3, 0.5, -1, True), ops.RoIPool(4, 0.5)):
    images.grad = None
    pooled = pool(images, rois)
    weights = torch.linspace(0, 1, pooled.numel(), dtype=torch.float64)
    (pooled * weights.view_as(pooled)).sum().backward()
    print(f"{pooled.sum().item():.10g} {images.grad.square().sum().item():.10g}")
model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
    weights=None, weights_backbone=None, box_score_thresh=0.0).eval()
with torch.no_grad():
    (found,) = model([torch.rand(3, 200, 260)])
print(len(found["boxes"]), f"{found['scores'].double().sum():.4f}")
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_without_it_torchvision_cannot_be_imported():
    done = python(f"{BROKEN}import torchvision")
    assert done.returncode == 1 and "nms does not exist" in done.stderr


def test_results_and_gradients_are_torchvisions():
    ours = python(f"{BROKEN}import fastrpn.torchvision_ops as t; assert t.provided()\n{EXACT}")
    theirs = python(f"import torch\n{EXACT}")
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert len(theirs.stdout.splitlines()) == 6
    assert ours.stdout == theirs.stdout


def test_schemas_are_torchvisions():
    code = (
        "for schema in torch._C._jit_get_all_schemas():\n"
        "    if schema.name.startswith('torchvision::'): print(schema)"
    )
    ours = python(f"{BROKEN}import fastrpn.torchvision_ops\n{code}")
    theirs = python(f"import torch, torchvision\n{code}")
    known = set(theirs.stdout.splitlines())
    assert known & set(ours.stdout.splitlines()) == known


def test_compiled_code_knows_shapes():
    done = python(
        f"{BROKEN}import fastrpn.torchvision_ops, torchvision\n"
        "from torch._subclasses import FakeTensorMode\n"
        "with FakeTensorMode():\n"
        "    x, r = torch.rand(2, 3, 8, 9, requires_grad=True), torch.rand(5, 5)\n"
        "    y = torchvision.ops.roi_align(x, r, 4) + torchvision.ops.roi_pool(x, r, 4)\n"
        "    y.sum().backward()\n"
        "    print(tuple(y.shape), tuple(x.grad.shape))"
    )
    assert done.stdout == "(5, 3, 4, 4) (2, 3, 8, 9)\n", done.stderr


@pytest.mark.parametrize("first", ["", "import torchvision; "])
def test_it_changes_nothing_where_torchvisions_library_loads(first):
    done = python(
        f"{first}import fastrpn.torchvision_ops as t, torch, torchvision; print(t.provided())\n"
        "b = torch.rand(5, 4)\n"
        "kernels = torch._C._dispatch_dump('torchvision::nms')\n"
        "print('fastrpn' in kernels)"
    )
    assert done.stdout == "False\nFalse\n", done.stderr


def test_what_has_no_kernel_says_so():
    done = python(
        f"{BROKEN}import fastrpn.torchvision_ops, torchvision\n"
        "torchvision.ops.ps_roi_pool(torch.rand(1, 4, 8, 8), torch.rand(2, 5), 2)"
    )
    assert done.returncode == 1 and "'torchvision::ps_roi_pool'" in done.stderr
