"""Builds the CUDA kernels as C++ with sanitizers and runs them on tensors.

>>> outputs = harness.run("box_iou", boxes1=boxes1, boxes2=boxes2, seeds=3)
>>> outputs["iou"]

One executable an op, kept under build/cuda_on_cpu until a source changes. Each runs the op with
several orders of threads and insists on identical outputs.
"""

import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "cuda_on_cpu"

# Each executable is run_<name>.cpp and csrc/core/<name>/<name>_cuda.cu (self_test_cuda.cu is here).
NAMES = ("self_test", "box_iou", "nms", "roi_pool", "match_anchors")
HARNESS = ("fiber.cpp", "scheduler.cpp", "memory.cpp", "device_sort.cpp", "runner.cpp")

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

COMMON_FLAGS = ["-std=c++17", "-g", "-Wall", f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
KERNEL_FLAGS = [
    *COMMON_FLAGS,
    "-O1",
    "-DFASTRPN_CUDA_ON_CPU",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
]


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


def compile_object(source: Path, target: Path, flags: list[str]) -> Path:
    command = [compiler_path(), *flags, "-x", "c++", "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise HarnessError(f"{source.name} does not compile:\n{result.stderr[-4000:]}")
    return target


def source_hash(*folders: Path) -> str:
    digest = hashlib.sha256(compiler_path().encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".h", ".cpp", ".cu", ".py"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def link(objects: list[Path], target: Path) -> Path:
    flags = ["-fsanitize=address,undefined", "--coverage", "-ldl"]
    subprocess.run([compiler_path(), *map(str, objects), "-o", str(target), *flags], check=True)
    return target


def folder() -> Path:
    """Where this version of the sources is built; other versions are removed."""
    path = BUILD / source_hash(HERE, ROOT / "csrc" / "core")
    if not path.exists() and BUILD.exists():
        shutil.rmtree(BUILD)
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def build() -> Path:
    """Compiles what is missing, two at a time, and returns the folder of the executables."""
    out = folder()
    if all((out / f"run_{name}").exists() for name in NAMES):
        return out
    jobs = [(HERE / name, out / f"{name}.o", [*COMMON_FLAGS, "-O2"]) for name in HARNESS]
    for name in NAMES:
        jobs.append((kernel_source(name), out / f"{name}_cuda.o", [*KERNEL_FLAGS, "--coverage"]))
        jobs.append((HERE / f"run_{name}.cpp", out / f"run_{name}.o", KERNEL_FLAGS))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: compile_object(*job), jobs))
    for name in NAMES:
        link(objects_of(name, out), out / f"run_{name}")
    return out


def kernel_source(name: str) -> Path:
    return (HERE if name == "self_test" else ROOT / "csrc" / "core" / name) / f"{name}_cuda.cu"


def objects_of(name: str, out: Path) -> list[Path]:
    return [*(out / f"{file}.o" for file in HARNESS), out / f"run_{name}.o", out / f"{name}_cuda.o"]


def build_mutant(op: str, old: str, new: str, name: str) -> Path:
    """The op's executable with `old` replaced by `new` in its kernel source, to plant a fault."""
    out = build() / name
    out.mkdir(exist_ok=True)
    source = kernel_source(op)
    text = source.read_text()
    assert text.count(old) == 1, (
        f"{source.name} has {text.count(old)} copies of the text to replace"
    )
    mutant = out / source.name
    mutant.write_text(text.replace(old, new))
    objects = objects_of(op, build())
    objects[-1] = compile_object(mutant, out / "mutant.o", KERNEL_FLAGS)
    return link(objects, out / "run")


def run(op: str | Path, **inputs) -> dict[str, torch.Tensor]:
    """Runs an op (or the executable of a mutant) on tensors and numbers, and returns its outputs.

    `seeds` is the number of thread orders to try, `misalign` the elements by which every tensor is
    moved off its 16-byte alignment. Raises HarnessError if harness, sanitizers or the op object.
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
                "ASAN_OPTIONS": "detect_leaks=0",
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
