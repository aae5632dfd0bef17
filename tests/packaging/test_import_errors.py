"""Import without the compiled libraries, or with broken ones: the message must help."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import ROOT, clean_environment


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the Python sources alone."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fastrpn", tmp_path / "fastrpn", ignore=ignore)
    return tmp_path


# An editable installation would lend the copy its compiled modules.
ALONE = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "


def error_of(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ALONE + code],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


def check_helps(message: str) -> None:
    assert "ImportError: fastrpn's" in message
    assert "Likely causes and cures" in message
    assert "pip install ." in message


def test_missing_operators(copy):
    message = error_of("import fastrpn.ops", copy)
    check_helps(message)
    assert "libfastrpn_torch.so does not exist" in message


def test_broken_operators(copy):
    (copy / "fastrpn" / "libfastrpn_torch.so").write_bytes(b"not a library")
    message = error_of("import fastrpn.ops", copy)
    check_helps(message)
    assert "libfastrpn_torch.so" in message


def test_missing_extension_module(copy):
    check_helps(error_of("from fastrpn._library import core; core()", copy))


def test_old_torch(copy):
    message = error_of("import torch; torch.__version__ = '2.9.1'; import fastrpn.ops", copy)
    check_helps(message)
    assert "torch 2.9.1 is installed" in message


def test_importing_the_package_loads_nothing_heavy(copy):
    code = "import sys, fastrpn; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    environment = clean_environment(PYTHONPATH=str(copy))
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
