"""Runs the tests that compare with torchvision against other releases of it.

    python tests/packaging/check_torchvision.py 0.29.2 0.28.0

In a temporary environment, one release after the other: `pip install torchvision==RELEASE`, which
brings its torch, then tests/test_accelerate.py and tests/ops, but for slow ones. The native
libraries are those built in this source tree, unchanged: one build serves every torch. A table is
printed, and written to docs/compatibility.md by `--write`. A release takes three minutes; the disk
needs room for one torch with CUDA, 8 GB. pip's own configuration decides which releases it may
install.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from building import ROOT, clean_environment, run

TESTS = ["tests/test_accelerate.py", "tests/ops"]
NEEDED_BY_TESTS = ["pytest", "hypothesis", "numpy"]
DOCUMENT = ROOT / "docs" / "compatibility.md"
HEADER = ["| torchvision | torch | Python | result |", "|---|---|---|---|"]


def check(release: str, folder: Path) -> tuple[str, bool]:
    """The release's row of the table, and whether all tests passed in the environment `folder`."""
    python = folder / "bin" / "python"
    wanted = [f"torchvision=={release}", *NEEDED_BY_TESTS]
    eager = ["--upgrade", "--upgrade-strategy", "eager"]  # else a torch that is there would do
    pip = ["-m", "pip", "install", "--no-cache-dir", "--no-compile", "--quiet"]
    run(python, *pip, *eager, *wanted)
    query = "import torch, torchvision; print(torchvision.__version__, torch.__version__)"
    versions = run(python, "-c", query, cwd=folder).stdout.split()
    tests = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS],
        cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True,
    )  # fmt: skip
    if tests.returncode:
        print(tests.stdout, tests.stderr, file=sys.stderr)
    summary = tests.stdout.strip().splitlines()[-1].strip("= ").rsplit(" in ")[0]
    here = ".".join(map(str, sys.version_info[:3]))
    return f"| {versions[0]} | {versions[1]} | {here} | {summary} |", tests.returncode == 0


def write(rows: list[str]) -> None:
    """Puts the rows in place of those of the document's table."""
    before, after = DOCUMENT.read_text().split("\n".join(HEADER))
    after = after.lstrip("\n")
    while after.startswith("|"):
        after = after.split("\n", 1)[1]
    DOCUMENT.write_text(before + "\n".join([*HEADER, *rows, "", after.lstrip("\n")]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="+", metavar="RELEASE")
    parser.add_argument("--write", action="store_true", help=f"update {DOCUMENT.name}")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # pip and the version query see the new environment alone
    print("\n".join(HEADER), flush=True)
    rows, all_passed = [], True
    with tempfile.TemporaryDirectory(prefix="torchvision-") as folder:
        venv.create(folder, with_pip=True)
        for release in options.releases:
            row, passed = check(release, Path(folder))
            print(row, flush=True)
            rows.append(row)
            all_passed &= passed
            if options.write:
                write(rows)
    sys.exit(0 if all_passed else 1)


if __name__ == "__main__":
    main()
