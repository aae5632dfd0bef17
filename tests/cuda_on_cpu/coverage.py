"""Which lines of the CUDA kernels the harness has executed.

$ python tests/cuda_on_cpu/coverage.py

Runs the tests of this folder, then gcov, and lists for each kernel source the share of its lines
that ran (in any instantiation of a template) and those that did not.
"""

import collections
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cuda_on_cpu import harness  # noqa: E402


def executed_lines(build: Path) -> dict[str, dict[int, int]]:
    """{source: {line: executions}} of everything under csrc."""
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    for counters in sorted(build.glob("*_cuda.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(counters)]
        output = subprocess.run(
            command, cwd=build, capture_output=True, text=True, check=True
        ).stdout
        for file in json.loads(output)["files"]:
            path = Path(file["file"]).resolve()
            if harness.ROOT / "csrc" in path.parents:
                for line in file["lines"]:
                    name = str(path.relative_to(harness.ROOT))
                    lines[name][line["line_number"]] += line["count"]
    return lines


def main() -> int:
    build = harness.build()
    for old in build.glob("*.gcda"):
        old.unlink()
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", str(harness.HERE)]).returncode
    if status != 0:
        return status
    if shutil.which("gcov") is None:
        print("no gcov here")
        return 1
    print(f"\n{'source':50} {'lines':>6} {'ran':>6}")
    total = ran = 0
    for source, lines in sorted(executed_lines(build).items()):
        missed = sorted(line for line, count in lines.items() if count == 0)
        total, ran = total + len(lines), ran + len(lines) - len(missed)
        share = 100 * (1 - len(missed) / len(lines))
        print(f"{source:50} {len(lines):6} {share:5.1f}%", *(missed and ["not:", *missed]))
    print(f"{'all':50} {total:6} {100 * ran / total:5.1f}%")
    return 0


if __name__ == "__main__":
    sys.exit(main())
