"""The programs of examples/cpp, built against an installation and run."""

import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import torch

import fastrpn
from fastrpn import ops
from tests.deployment.detectors import unmatched

ROOT = Path(__file__).parents[2]
PACKAGE = Path(fastrpn.__file__).parent

pytestmark = pytest.mark.skipif(
    not (PACKAGE / "share/cmake/fastrpn").exists() or shutil.which("cmake") is None,
    reason="needs an installation with its CMake package, and cmake",
)


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    build = tmp_path_factory.mktemp("build")
    prefix, torch_dir = f"-DCMAKE_PREFIX_PATH={PACKAGE}", Path(torch.__file__).parent
    run("cmake", "-S", ROOT / "examples/cpp", "-B", build, prefix, f"-DTORCH_DIR={torch_dir}")
    run("cmake", "--build", build)
    return build


def test_kernels_on_plain_arrays(programs):
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    kept = ops.nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)
    features = torch.arange(16.0).view(1, 1, 4, 4)
    pooled = ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 31, 31]]), 2, 1 / 8)
    assert run(programs / "kernels").splitlines() == [
        f"iou of the first two: {ops.box_iou(boxes, boxes)[0, 1]:.4f}",
        "kept: " + " ".join(map(str, kept.tolist())),
        "pooled: " + " ".join(f"{value:g}" for value in pooled.flatten().tolist()),
    ]


@pytest.mark.parametrize(("asked", "is_found"), [("", True), ("0.1", True), ("9.0", False)])
def test_the_package_knows_its_version(asked, is_found, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(asks LANGUAGES CXX)\n"
        f'find_package(fastrpn {asked} REQUIRED)\nmessage(STATUS "got ${{fastrpn_VERSION}}")\n'
    )
    command = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={PACKAGE}"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (result.returncode == 0) == is_found, result.stderr
    if is_found:
        assert f"got {fastrpn.__version__}" in result.stdout
    else:
        assert "9.0" in result.stderr and fastrpn.__version__ in result.stderr


def test_the_programs_without_torch_need_none(programs):
    assert "torch" not in run("ldd", programs / "kernels")
    assert "python" not in run("ldd", programs / "kernels")


def test_a_cpp_program_finds_what_the_model_finds(programs, tiny, exported, tmp_path):
    pixels = (torch.rand(18, 25, 3) * 255).byte().numpy()
    pixels = cv2.resize(pixels, (200, 144), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "image.ppm"), pixels[..., ::-1])
    printed = run(programs / "detect", exported("aoti"), tmp_path / "image.ppm")
    rows = torch.tensor([list(map(float, line.split())) for line in printed.splitlines()])
    found = {"labels": rows[:, 0].long(), "scores": rows[:, 1], "boxes": rows[:, 2:]}
    with torch.no_grad():
        (expected,) = tiny([torch.from_numpy(pixels).permute(2, 0, 1) / 255])
    assert len(expected["scores"]) > 20
    assert unmatched(found, expected) == 0
