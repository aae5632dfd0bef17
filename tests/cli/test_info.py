"""`fastrpn info` on other machines: drivers too old, GPUs that the build has no code for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrpn import info

BUILD = {"cuda_version": "13.0.88", "cuda_archs": ["75-real", "80-real", "90"]}
FAKE_LIBRARIES = {
    "libcuda.so.1": "int cuDriverGetVersion(int* version) { *version = 12080; return 0; }",
    "libnvidia-ml.so.1": """
        #include <string.h>
        int nvmlInit_v2(void) { return 0; }
        int nvmlSystemGetDriverVersion(char* version, unsigned length) {
          strncpy(version, "570.124.06", length);
          return 0;
        }""",
}


@pytest.mark.parametrize(
    "capability, archs, fits",
    [
        ((7, 5), ["75-real", "80-real", "90"], True),
        ((7, 0), ["75-real", "80-real", "90"], False),
        ((8, 6), ["75-real", "80-real", "90"], True),
        ((8, 0), ["86-real"], False),
        ((12, 0), ["75-real", "80-real", "90"], True),  # from PTX
        ((12, 0), ["75-real", "90-real"], False),
        ((9, 0), ["80-virtual"], True),
        ((7, 5), ["80-virtual"], False),
        ((10, 0), ["100a-real"], True),
        ((7, 5), ["native"], True),
    ],
)
def test_which_gpus_a_build_serves(capability, archs, fits):
    assert info.holds_code_for(capability, archs) is fits


def test_the_version_that_the_kernel_says(monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 13.3.0\n"
    )
    monkeypatch.setattr(info, "DRIVER_FILE", file)
    assert info._driver() == "580.65.06"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 2023\n")
    assert info._driver() == "535.54.03"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_an_old_driver_is_one_line(tmp_path):
    for name, text in FAKE_LIBRARIES.items():
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / name]
        subprocess.run(command, input=text, text=True, check=True)
    code = (
        "from pathlib import Path; from fastrpn import info; info.DRIVER_FILE = Path('/nowhere'); "
        f"print(info._why_no_gpu({BUILD}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "no: the NVIDIA driver (570.124.06) is too old; needed: 580 or newer, for CUDA 13.0.88\n"
    )


def test_a_gpu_that_the_build_has_no_code_for(monkeypatch):
    monkeypatch.setattr(info, "_cuda_driver", lambda: "13.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(info, "_gpus", lambda: [("Tesla V100", (7, 0))])
    found = info._why_no_gpu(BUILD)
    assert found == "no: no code for Tesla V100 (sm_70): reinstall with FASTRPN_CUDA_ARCHS=70"
    monkeypatch.setattr(info, "_gpus", lambda: [("Tesla T4", (7, 5))])
    assert info._why_no_gpu(BUILD) is None


def test_the_driver_that_a_build_needs():
    assert info._driver_needed(BUILD) == "580 or newer, for CUDA 13.0.88"
    assert info._driver_needed({"cuda_version": "12.8.93"}) == "525 or newer, for CUDA 12.8.93"
    assert info._driver_needed({"cuda_version": None}) == "none"


def test_the_template_of_a_bug_report_asks_for_what_info_prints():
    root = Path(__file__).resolve().parents[2]
    template = (root / ".github" / "ISSUE_TEMPLATE" / "bug.md").read_text()
    assert re.findall(r"`fastrpn (\w+)`", template) == ["info"]
    asked_by_maintainers = {"fastrpn", "Python", "torch", "torchvision", "CPU", "platform", "GPUs"}
    assert asked_by_maintainers <= info.collect().keys()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_the_default_serves_every_gpu_from_a_t4_on(capability):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    build_backend = pytest.importorskip("build_backend")
    assert info.holds_code_for(capability, build_backend.DEFAULT_CUDA_ARCHS.split(";"))
