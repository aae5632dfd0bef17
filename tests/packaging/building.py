"""Running commands in environments of their own."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Runs a command with captured output and fails with that output when it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what would lead Python back to the source tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | extra
