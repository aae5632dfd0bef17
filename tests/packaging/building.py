"""Running commands in environments of their own."""

import json
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


def run_script(script: Path, python: object, folder: Path) -> dict:
    """Runs a script that ends by printing JSON, with the wheel unpacked in `folder` on the path.

    Returns what it printed, of which "file" must be the package in that folder.
    """
    done = run(python, script, cwd=folder, env=clean_environment(PYTHONPATH=str(folder)))
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["file"].startswith(str(folder))
    return printed
