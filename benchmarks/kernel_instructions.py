"""Instructions in the inner loops of the CUDA kernels: `python -m benchmarks.kernel_instructions`.

Compiles the kernel sources for one architecture, disassembles them (no GPU needed; `nvdisasm` comes
with CUDA or as `pip install nvidia-cuda-nvdisasm`) and writes to
benchmarks/results/kernel_instructions.md, for the kernels in float32, what a turn of the inner loop
that reads most has: instructions by kind, the widths of its loads from global memory, and how many
of them are on their way when the first is waited for.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kernel_resources import ROOT, compile_source, find_tool, readable, sources
from benchmarks.tables import table

OUTPUT = ROOT / "benchmarks" / "results" / "kernel_instructions.md"
COLUMNS = ["kernel", "instructions", "load", "store", "shared", "local", "float", "integer"]
COLUMNS += ["warp", "barrier", "branch", "widths of loads", "loads in flight"]

# Kind -> how the names of its instructions begin; the first that fits counts. Others: integer.
KINDS = {
    "load": ("LDG", "LD."),
    "store": ("STG", "ST.", "ATOM.", "ATOMG", "RED"),
    "shared": ("LDS", "STS", "ATOMS"),
    "local": ("LDL", "STL"),
    "warp": ("SHFL", "VOTE", "MATCH", "WARPSYNC"),
    "barrier": ("BAR",),
    "branch": ("BRA", "BSSY", "BSYNC", "BREAK", "EXIT", "CALL", "RET", "YIELD"),
    "integer": ("FLO",),
    "float": ("F", "MUFU", "D", "H"),
}
WIDTHS = {".U8": 1, ".S8": 1, ".U16": 2, ".S16": 2, ".64": 8, ".128": 16}


@dataclass
class Instruction:
    name: str  # with what follows it behind dots: LDG.E.128
    operands: str

    @classmethod
    def of(cls, text: str) -> "Instruction":
        name, _, operands = re.sub(r"^@!?U?P\w+ +", "", text.strip()).partition(" ")
        return cls(name, operands)

    @property
    def kind(self) -> str:
        return next((k for k, names in KINDS.items() if self.name.startswith(names)), "integer")

    @property
    def width(self) -> int:
        """Bytes of a load."""
        return next((size for mark, size in WIDTHS.items() if mark in self.name), 4)

    @property
    def is_load(self) -> bool:
        return self.kind == "load" or self.name.startswith("LDS")

    @property
    def registers(self) -> list[int]:
        return [int(number) for number in re.findall(r"\bR(\d+)", self.operands)]


def functions(text: str) -> dict[str, tuple[list[Instruction], list[tuple[int, int]]]]:
    """{mangled name: instructions, loops} of what `nvdisasm -c` prints; a loop is a range [first,
    last] of instructions that ends with a branch to its first."""
    found = {}
    for part in re.split(r"^\.text\.", text, flags=re.MULTILINE)[1:]:
        instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        loops = []
        for line in part.splitlines():
            if match := re.match(r"\s*(\.L_\w+):", line):
                labels[match[1]] = len(instructions)
            elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
                instructions.append(Instruction.of(match[1]))
                target = re.search(r"\.L_\w+", instructions[-1].operands)
                if instructions[-1].name.startswith("BRA") and target and target[0] in labels:
                    loops.append((labels[target[0]], len(instructions) - 1))
        found[part.partition(":")[0]] = instructions, loops
    return found


def inner_loop(
    instructions: list[Instruction], loops: list[tuple[int, int]]
) -> list[Instruction] | None:
    """Of the loops that contain no other, the one with the most loads from global and shared
    memory, and of such the longest. None: there is none; a branch to itself, which ends a kernel,
    is not one.
    """
    loops = [(first, last) for first, last in loops if first < last]
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    if not inner:
        return None
    bodies = [instructions[first : last + 1] for first, last in inner]
    return max(bodies, key=lambda body: (sum(i.is_load for i in body), len(body)))


def loads_in_flight(instructions: list[Instruction]) -> int:
    """The most loads from global memory that are on their way when one is waited for, or at the
    end. They are taken to arrive in their order."""
    most, waiting = 0, []
    for instruction in instructions:
        reads = instruction.registers
        if instruction.kind == "load" and reads:
            result, reads = reads[0], reads[1:]
        used = [i for i, registers in enumerate(waiting) if registers & set(reads)]
        if used:
            most = max(most, len(waiting))
            waiting = waiting[used[-1] + 1 :]
        if instruction.kind == "load":
            waiting.append(set(range(result, result + max(1, instruction.width // 4))))
    return max(most, len(waiting))


def row(name: str, instructions: list[Instruction], loops: list[tuple[int, int]]) -> list[str]:
    loop = inner_loop(instructions, loops)
    shown = loop or instructions
    kinds = Counter(instruction.kind for instruction in shown)
    widths = Counter(i.width for i in shown if i.kind == "load")
    return [
        f"`{name}`" + ("" if loop else ", all of it: no loop"),
        str(len(shown)),
        *(str(kinds[kind]) for kind in COLUMNS[2:-2]),
        ", ".join(f"{count} × {width}" for width, count in sorted(widths.items())) or "–",
        str(loads_in_flight(shown)),
    ]


def disassemble(nvcc: str, nvdisasm: str, source: Path, arch: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        compile_source(nvcc, source, arch, cubin)
        command = [nvdisasm, "-c", cubin]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    nvcc, nvdisasm = find_tool("nvcc"), find_tool("nvdisasm")
    if nvcc is None or nvdisasm is None:
        print("no nvcc here" if nvcc is None else "no nvdisasm: pip install nvidia-cuda-nvdisasm")
        return 1
    rows = []
    for op, source in sources().items():
        for mangled, found in functions(disassemble(nvcc, nvdisasm, source, options.arch)).items():
            name = readable(mangled)
            if "<" not in name or "<float" in name:
                rows.append(row(f"{op}: {name}", *found))
        print(f"{op}: {len(rows)} kernels", flush=True)
    lines = [
        "# Inner loops of the CUDA kernels",
        "",
        f"Machine code for sm_{options.arch}, float32: a turn, as the compiler has unrolled it, of",
        "the loop that reads most among those that contain no other. Loads are from global memory,",
        "their widths in bytes; in flight: how many are on their way when the first is waited for.",
        "Written by `python -m benchmarks.kernel_instructions`.",
        "",
        table(COLUMNS, sorted(rows)),
    ]
    options.output.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
