"""Builds the CUDA kernels as C++ with sanitizers and runs them on tensors.

>>> outputs = harness.run("box_iou", boxes1=boxes1, boxes2=boxes2, seeds=3)
>>> outputs["iou"]

One executable an op, under build/cuda_on_cpu. Each runs the op with several orders of threads and
insists on identical outputs.
"""

import fcntl
import functools
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cuda_on_cpu"

# Each executable is run_<name>.cpp and csrc/ops/<name>/<name>_cuda.cu (self_test_cuda.cu is here).
NAMES = (
    "self_test",
    "box_iou",
    "nms",
    "soft_nms",
    "match_anchors",
    "generate_proposals",
    "roi_pool",
    "roi_align",
)
ALSO = {"generate_proposals": ["nms_cuda.o"]}  # kernels that call others
HARNESS = ("fiber.cpp", "scheduler.cpp", "memory.cpp", "faults.cpp", "runner.cpp")

TYPES = {
    torch.float16: "f2",
    torch.bfloat16: "bf",
    torch.float32: "f4",
    torch.float64: "f8",
    torch.int32: "i4",
    torch.int64: "i8",
    torch.bool: "u1",
    torch.uint8: "u1",
}
DTYPES = {code: dtype for dtype, code in TYPES.items() if dtype != torch.bool}

COMMON_FLAGS = ["-std=c++17", "-g", "-Wall", f"-I{CSRC}", f"-I{HERE}"]
SANITIZED = [
    *COMMON_FLAGS,
    "-O1",
    "-ffp-contract=off",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
]
KERNEL_FLAGS = [
    *SANITIZED,
    "-DFASTRPN_CUDA_ON_CPU",
    "-Wno-unknown-pragmas",
    "-Werror=unused-result",  # a launch whose status nobody looks at
]
CPU_FLAGS = [
    *SANITIZED,
    "-DFASTRPN_SIMD_LEVEL=generic",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
LINK_FLAGS = ["-fsanitize=address,undefined", "--coverage", "-ldl"]


class HarnessError(RuntimeError):
    """The harness or a sanitizer ended the run; the message is what it printed."""


def why_unavailable() -> str | None:
    """The reason why the harness cannot run here, or None."""
    if platform.machine() not in ("x86_64", "aarch64") or platform.system() != "Linux":
        return "the harness switches stacks for Linux on x86-64 and aarch64"
    compiler = compiler_path()
    if compiler is None:
        return "the harness needs g++"
    probe = subprocess.run(
        [compiler, "-fsanitize=address,undefined", "-x", "c++", "-", "-o", os.devnull],
        input="int main() {}",
        capture_output=True,
        text=True,
    )
    return None if probe.returncode == 0 else "g++ has no sanitizer libraries here"


def compiler_path() -> str | None:
    return shutil.which(os.environ.get("FASTRPN_HARNESS_CXX", "g++"))


@functools.cache
def build() -> Path:
    """Brings the executables up to date, two compilers at a time, and returns their folder."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build at a time, whoever runs the tests
        plan = build_plan()
        if not (BUILD / "build.ninja").exists() or (BUILD / "build.ninja").read_text() != plan:
            (BUILD / "build.ninja").write_text(plan)
        command = [sys.executable, "-m", "ninja", "-C", str(BUILD), "-j2"]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise HarnessError(result.stdout[-4000:] + result.stderr)
    return BUILD


def build_plan() -> str:
    """The text of build.ninja."""
    plan = [
        f"cxx = {compiler_path()}",
        "rule compile",
        "  command = $cxx $flags -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx $in -o $out {' '.join(LINK_FLAGS)}",
    ]

    def compile_to(target: str, source: Path, flags: list[str]) -> None:
        plan.extend([f"build {target}: compile {source}", f"  flags = {' '.join(flags)}"])

    for file in HARNESS:
        compile_to(f"{file}.o", HERE / file, [*COMMON_FLAGS, "-DFASTRPN_CUDA_ON_CPU", "-O2"])
    compile_to("sort.o", CSRC / "cuda" / "sort.cu", KERNEL_FLAGS)
    for name in NAMES:
        for source in cpu_sources(name):
            compile_to(f"{source.stem}.o", source, CPU_FLAGS)
        compile_to(f"{name}_cuda.o", kernel_source(name), [*KERNEL_FLAGS, "--coverage"])
        compile_to(f"run_{name}.o", HERE / f"run_{name}.cpp", KERNEL_FLAGS)
        plan.append(f"build run_{name}: link {' '.join(objects_of(name))}")
    return "\n".join([*plan, ""])


def kernel_source(name: str) -> Path:
    return (HERE if name == "self_test" else CSRC / "ops" / name) / f"{name}_cuda.cu"


def cpu_sources(name: str) -> list[Path]:
    return sorted((CSRC / "ops" / name).glob("*_cpu.cpp"))


def objects_of(name: str) -> list[str]:
    harness = [f"{file}.o" for file in HARNESS]
    cpu = [f"{source.stem}.o" for source in cpu_sources(name)]
    also = ALSO.get(name, [])
    return [*harness, *also, *cpu, "sort.o", f"run_{name}.o", f"{name}_cuda.o"]


def build_mutant(op: str, file: str, old: str, new: str, name: str) -> Path:
    """The op's executable with a fault planted in csrc/ops/<op>/<file>: `new` instead of `old`."""
    source = CSRC / "ops" / op / file
    text = source.read_text()
    assert text.count(old) == 1, f"{file} has {text.count(old)} copies of {old!r}"
    out = build() / name
    mutant = out / "ops" / op / file
    mutant.parent.mkdir(parents=True, exist_ok=True)
    mutant.write_text(text.replace(old, new))
    kernels = mutant if file == f"{op}_cuda.cu" else kernel_source(op)
    objects = [build() / file for file in objects_of(op)[:-1]]
    flags = [f"-I{out}", *KERNEL_FLAGS]  # the mutant before the original
    flags.remove("-Werror=unused-result")  # a mistake may be just that
    command = [compiler_path(), *flags, "-x", "c++", kernels, "-x", "none", *objects]
    subprocess.run([*command, "-o", out / "run", *LINK_FLAGS], check=True)
    return out / "run"


def run(op: str | Path, **inputs) -> dict[str, torch.Tensor]:
    """Runs an op (or the executable of a mutant) on tensors and numbers, and returns its outputs.

    `seeds` is the number of thread orders to try, `misalign` the elements by which every tensor is
    moved off its 16-byte alignment. Raises HarnessError if harness, sanitizers or the op object,
    and if the op's CPU kernel gives other bits. `fail_calls` lets each CUDA call of the op fail
    once, `fail_allocations` each allocation of the CPU kernel; how many there were is in the
    outputs "calls" and "allocations".
    """
    executable = op if isinstance(op, Path) else build() / f"run_{op}"
    with tempfile.TemporaryDirectory() as scratch:
        request, response = Path(scratch, "request"), Path(scratch, "response")
        request.write_bytes(b"".join(encode(name, value) for name, value in inputs.items()))
        result = subprocess.run(
            [executable, request, response],
            capture_output=True,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
                "UBSAN_OPTIONS": "print_stacktrace=1",
            },
            timeout=300,
        )
        if result.returncode != 0:
            raise HarnessError(f"exit code {result.returncode}:\n{result.stderr[:6000]}")
        return decode(response.read_bytes())


def encode(name: str, value) -> bytes:
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(float(value), dtype=torch.float64)
    code, shape = TYPES[value.dtype].encode(), value.shape
    header = struct.pack(f"<32s8sq{len(shape)}q", name.encode(), code, len(shape), *shape)
    return header + value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def decode(data: bytes) -> dict[str, torch.Tensor]:
    tensors, at = {}, 0
    while at < len(data):
        name, code, dimensions = struct.unpack_from("<32s8sq", data, at)
        at += 48
        shape = struct.unpack_from(f"<{dimensions}q", data, at)
        at += 8 * dimensions
        dtype = DTYPES[code.rstrip(b"\0").decode()]
        tensor = torch.empty(shape, dtype=dtype)
        size = tensor.numel() * tensor.element_size()
        if size > 0:
            raw = torch.frombuffer(bytearray(data[at : at + size]), dtype=torch.uint8)
            tensor = raw.view(dtype).reshape(shape)
        tensors[name.rstrip(b"\0").decode()] = tensor
        at += size
    return tensors
