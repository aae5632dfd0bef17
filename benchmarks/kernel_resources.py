"""Registers, shared memory and spills of the CUDA kernels: `python -m benchmarks.kernel_resources`.

Compiles each kernel source for each architecture (no GPU needed) and writes what `ptxas -v` says
to benchmarks/results/kernel_resources.md. Fails if a kernel that is not in KNOWN_SPILLS spills or
uses a stack. With --check nothing is written: it fails if the file says something else than the
compiler, or if a kernel needs more shared memory, spills or stack than the file says.
"""

import argparse
import operator
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import table

ROOT = Path(__file__).resolve().parents[1]
ARCHS = ["75", "80", "86", "90", "100", "120"]
OUTPUT = ROOT / "benchmarks" / "results" / "kernel_resources.md"

# Kernel name -> why its spills do no harm.
KNOWN_SPILLS = {
    "match_anchors: match_label_kernel<double>": "8 bytes around the call that divides doubles",
    "generate_proposals: proposals_decode_kernel<double>": "8 bytes around the calls of exp",
    "box_iou: box_iou_kernel<double, 1, true>": "40 bytes around the call that divides doubles",
    "box_iou: box_iou_kernel<bfloat16_t, 4, true>": "8 bytes around the slow path of a division",
    "nms: nms_segment_kernel<float>": "12 bytes on sm_100: stored once, read once a tile of boxes",
    "nms: nms_sweep_kernel<float>": "24 bytes on sm_100: stored once, 8 read in each round",
}


@dataclass
class Resources:
    """What one kernel needs on one architecture."""

    registers: int = 0
    shared_bytes: int = 0
    spill_bytes: int = 0
    stack_bytes: int = 0


GREATEST = ("shared_bytes", "spill_bytes", "stack_bytes")  # columns of the table, after registers
Kernels = dict[str, dict[str, Resources]]  # by name, then by architecture


def find_tool(name: str) -> str | None:
    """A program of CUDA, from its toolkit or from a package of PyPI."""
    packaged = Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}")
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    return found or next(map(str, packaged), None)


def sources() -> dict[str, Path]:
    """{op: its CUDA source}."""
    found = sorted((ROOT / "csrc" / "ops").glob("*/*_cuda.cu"))
    return {path.name.removesuffix("_cuda.cu"): path for path in found}


def compile_source(nvcc: str, source: Path, arch: str, cubin: str = "/dev/null") -> str:
    """What ptxas prints for one source and architecture."""
    command = [nvcc, "-std=c++17", f"-arch=sm_{arch}", "--fmad=false", f"-I{ROOT / 'csrc'}"]
    command += ["-Xptxas", "-v", "-cubin", "-o", cubin, str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{source.name} does not compile for sm_{arch}:\n{result.stderr}")
    return result.stderr


def parse(text: str, op: str) -> dict[str, Resources]:
    """{kernel: resources} from the output of `ptxas -v`."""
    kernels: dict[str, Resources] = {}
    current = Resources()
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            current = kernels[f"{op}: {readable(match[1])}"] = Resources()
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            current.stack_bytes = int(match[1])
            current.spill_bytes = max(int(match[2]), int(match[3]))
        elif match := re.search(r"Used (\d+) registers", line):
            current.registers = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            current.shared_bytes = int(shared[1]) if shared else 0
    return kernels


def readable(mangled: str) -> str:
    """`box_iou_kernel<half_t, 4, true>` of a mangled name: no namespaces, no parameters."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|fastrpn::|^void ", "", name)
    depth, end = 0, len(name)
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            end = i
            break
    return re.sub(r"\(\w+\)", "", name[:end])


def table_of(kernels: Kernels, archs: list[str]) -> str:
    """Markdown: registers for each architecture, then the greatest of what else is needed."""
    columns = ["kernel", *(f"sm_{arch}" for arch in archs)]
    columns += ["shared bytes", "spilled bytes", "stack bytes"]
    rows = [
        [f"`{name}`", *(found[arch].registers for arch in archs), *greatest(found)]
        for name, found in sorted(kernels.items())
    ]
    return table(columns, rows)


def greatest(found: dict[str, Resources]) -> list[int]:
    """What GREATEST names, over all architectures."""
    return [max(getattr(r, field) for r in found.values()) for field in GREATEST]


Written = dict[str, tuple[list[str], list[int]]]  # {kernel: registers, greatest}


def committed(path: Path, archs: list[str]) -> tuple[str, Written]:
    """The release of CUDA, and each kernel's numbers for the architectures, of the written file."""
    text = path.read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if set(line[0]) != {"-"}]
    columns = [rows[0].index(f"sm_{arch}") for arch in archs]
    written = {
        row[0].strip("`"): ([row[i] for i in columns], [int(x) for x in row[-len(GREATEST) :]])
        for row in rows[1:]
    }
    return re.search(r"of CUDA ([\d.]+)", text)[1], written


def differences(kernels: Kernels, archs: list[str], path: Path, release: str) -> list[str]:
    """What the written file says otherwise, one line for each kernel."""
    written_release, written = committed(path, archs)
    if written_release != release:
        print(f"{path.name} is of CUDA {written_release}, this is {release}: nothing to compare")
        return []
    found = {
        name: ([str(by_arch[arch].registers) for arch in archs], greatest(by_arch))
        for name, by_arch in kernels.items()
    }
    return [
        f"{name}: the file says {written.get(name)}, the compiler {found.get(name)}"
        for name in sorted(found.keys() | written.keys())
        if not agree(found.get(name), written.get(name))
    ]


def agree(found: tuple | None, written: tuple | None) -> bool:
    """Equal registers, and nothing greater than the greatest of all architectures."""
    if found is None or written is None:
        return False
    return found[0] == written[0] and all(map(operator.le, found[1], written[1]))


def write(kernels: Kernels, archs: list[str], path: Path, release: str) -> None:
    """The table, and the reasons of known spills."""
    lines = [
        "# Resources of the CUDA kernels",
        "",
        f"Registers of a thread, from `ptxas -v` of CUDA {release}; shared memory, spills and",
        "stack are the greatest of all architectures. Written by",
        "`python -m benchmarks.kernel_resources`. CUB's sort kernels are not listed.",
        "",
        table_of(kernels, archs),
        "",
        *(f"- `{name}` spills: {KNOWN_SPILLS.get(name, 'UNEXPECTED')}" for name in spills(kernels)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def spills(kernels: Kernels) -> list[str]:
    """Names of the kernels that spill, or use a stack, on any architecture."""
    return sorted(
        name
        for name, found in kernels.items()
        if any(r.spill_bytes or r.stack_bytes for r in found.values())
    )


def compile_all(nvcc: str, archs: list[str]) -> Kernels:
    """Resources of every kernel on every architecture."""
    kernels: Kernels = defaultdict(dict)
    for arch in archs:
        for op, source in sources().items():
            for name, resources in parse(compile_source(nvcc, source, arch), op).items():
                kernels[name][arch] = resources
        print(f"sm_{arch}: {len(kernels)} kernels", flush=True)
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", default=",".join(ARCHS), help="e.g. 80,90")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--check", action="store_true", help="compare with the file instead")
    options = parser.parse_args()
    archs = options.archs.split(",")
    nvcc = find_tool("nvcc")
    if nvcc is None:
        print("no nvcc here")
        return 1
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", version)[1]

    kernels = compile_all(nvcc, archs)
    wrong = [f"{name} spills" for name in spills(kernels) if name not in KNOWN_SPILLS]
    if options.check:
        wrong += differences(kernels, archs, options.output, release)
    else:
        write(kernels, archs, options.output, release)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
