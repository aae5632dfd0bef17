"""The wheel beside a torchvision whose own library does not load: CPU torch, PyPI's torchvision."""

import subprocess
import sys
from pathlib import Path

import pytest
from building import clean_environment, run_script

pytestmark = pytest.mark.packaging
SCRIPT = Path(__file__).with_name("torchvision_smoke.py")


def imports_torchvision(python: object, folder: Path) -> subprocess.CompletedProcess:
    command = [python, "-c", "import torchvision"]
    environment = clean_environment()
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_its_operators_are_ours_where_its_library_does_not_load(unpacked, cpu_torch):
    alone = imports_torchvision(cpu_torch, unpacked)
    if alone.returncode == 0:
        pytest.skip("the torch that was installed has CUDA: torchvision's own library loads")
    assert "operator torchvision::nms does not exist" in alone.stderr
    printed = run_script(SCRIPT, cpu_torch, unpacked)
    assert printed["torch"].startswith("2.13.0") and printed["torchvision"].startswith("0.28.0")
    assert printed["ours"]


def test_nothing_is_replaced_where_its_library_loads(unpacked):
    pytest.importorskip("torchvision")
    if imports_torchvision(sys.executable, unpacked).returncode != 0:
        pytest.skip("the torchvision that is installed does not load")
    assert not run_script(SCRIPT, sys.executable, unpacked)["ours"]
