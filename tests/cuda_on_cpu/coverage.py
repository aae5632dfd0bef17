"""Which lines of the CUDA kernels the harness has executed.

$ python tests/cuda_on_cpu/coverage.py

Runs the tests of this folder, then gcov, and writes to coverage.md for each kernel source the share
of its lines that ran (in any instantiation of a template) and those that did not.
"""

import collections
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cuda_on_cpu import harness  # noqa: E402

OUTPUT = harness.HERE / "coverage.md"


def executed_lines(build: Path, pattern: str = "*_cuda.gcda") -> dict[str, dict[int, int]]:
    """{source: {line: executions}} of everything under csrc, from the counters of that name."""
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    for counters in sorted(build.rglob(pattern)):
        command = ["gcov", "--json-format", "--stdout", str(counters)]
        output = subprocess.run(
            command, cwd=build, capture_output=True, text=True, check=True
        ).stdout
        for file in json.loads(output)["files"]:
            # Relative to the build where the compiler was called so, else to the project.
            base = build if (build / file["file"]).exists() else harness.ROOT
            path = (base / file["file"]).resolve()
            if harness.ROOT / "csrc" in path.parents:
                for line in file["lines"]:
                    name = str(path.relative_to(harness.ROOT))
                    lines[name][line["line_number"]] += line["count"]
    return lines


def report(lines_of: dict[str, dict[int, int]]) -> list[str]:
    """Markdown: for each source its lines, those that ran, and the text of those that did not."""
    table = ["| source | lines | ran |", "|---|---|---|"]
    missed: list[str] = []
    total = ran = 0
    for source, lines in sorted(lines_of.items()):
        text = (harness.ROOT / source).read_text().splitlines()
        not_run = sorted(line for line, count in lines.items() if count == 0)
        total, ran = total + len(lines), ran + len(lines) - len(not_run)
        share = 100 * (1 - len(not_run) / len(lines))
        table.append(f"| `{source}` | {len(lines)} | {share:.1f} % |")
        missed += [f"- `{source}`: `{text[line - 1].strip()}`" for line in not_run]
    table.append(f"| all | {total} | {100 * ran / total:.1f} % |")
    return [*table, "", *(["Not run:", "", *missed] if missed else [])]


def main() -> int:
    build = harness.build()
    for old in build.glob("*.gcda"):
        old.unlink()
    if shutil.which("gcov") is None:
        print("no gcov here")
        return 1
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", str(harness.HERE)]).returncode
    if status != 0:
        return status
    lines = [
        "# Lines of kernel code that the harness runs",
        "",
        "Of the CUDA sources and of every header they include, in any instantiation of a template.",
        "Written by `python tests/cuda_on_cpu/coverage.py`.",
        "",
        *report(executed_lines(build)),
    ]
    OUTPUT.write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
