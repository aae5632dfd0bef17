"""The kernels compile for real GPUs, spill nothing unexpected, and need what the table says."""

import os
import shutil
import subprocess
import sys

import pytest

from . import harness

# All six, which takes three times as long, where FASTRPN_ALL_ARCHS is set.
ARCHS = "75,80,86,90,100,120" if os.environ.get("FASTRPN_ALL_ARCHS") else "80,90"


@pytest.mark.skipif(
    not (shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")),
    reason="no nvcc",
)
def test_kernels_compile_to_what_the_table_says():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernel_resources", "--check", "--archs", ARCHS],
        cwd=harness.ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
