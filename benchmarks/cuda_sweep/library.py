"""Builds the instances, each a library of its own, and runs them on tensors.

With nvcc for the GPU that is present, or, for a dry run, as C++ on the harness of
tests/cuda_on_cpu, without its sanitizers: the same Python code runs either.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cuda_sweep.constants import CSRC, Instance
from benchmarks.kernel_resources import find_tool

sys.path.insert(0, str(CSRC.parent / "tests"))  # which is no package
from cuda_on_cpu import harness  # noqa: E402

HERE = Path(__file__).resolve().parent
BUILD = harness.ROOT / "build" / "cuda_sweep"
HARNESS = [harness.HERE / name for name in harness.HARNESS if name != "runner.cpp"]
HARNESS.append(HERE / "no_sanitizer.cpp")
# run_<op>.cpp names the op's CPU kernel, too.
CPU_COMPILER = (
    f"{harness.compiler_path()} -std=c++17 -O1 -fPIC -fvisibility=hidden -I{harness.ROOT / 'csrc'} "
    "-DFASTRPN_SIMD_LEVEL=generic -Wno-psabi"
)
ON_HOST = 64  # tensors with at most as many elements are given to the launch on the host, too


def build(instances: list[Instance], is_dry: bool) -> dict[Instance, Path]:
    """Brings the instances' libraries up to date, with as many compilers as there are processors.

    Raises:
        RuntimeError: one does not compile; the message holds the compiler's.
        ValueError: the kernels' sources do not hold a value where benchmarks.cuda_sweep.constants
            says.
    """
    folder = BUILD / ("cpu" if is_dry else "cuda")
    plan = cpu_rules() if is_dry else cuda_rules()
    shared = [*(HARNESS if is_dry else []), CSRC / "cuda" / "sort.cu", HERE / "run_instance.cpp"]
    for source in shared:
        kind = "kernel" if source.suffix == ".cu" else "host"
        plan += [f"build shared/{source.name}.o: {kind} {source}", f"  changed = {CSRC}"]
    plan += rule("cpu", f"{CPU_COMPILER} -MMD -MF $out.d -c $in -o $out")
    for op in dict.fromkeys(instance.op for instance in instances):
        plan += [f"build {source.stem}.o: cpu {source}" for source in harness.cpu_sources(op)]
    for instance in instances:
        plan += edges(instance, folder, [f"shared/{source.name}.o" for source in shared])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "build.ninja", "\n".join([*plan, ""]))
    ninja = [shutil.which("ninja")] if shutil.which("ninja") else [sys.executable, "-m", "ninja"]
    done = subprocess.run([*ninja, "-C", folder, "-k", "0"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the instances do not compile:\n{done.stdout[-6000:]}{done.stderr}")
    return {instance: folder / f"{instance.name}.so" for instance in instances}


def cpu_rules() -> list[str]:
    """The harness without sanitizers: their runtime would have to be there before Python."""
    flags = "-std=c++17 -O1 -fPIC -fvisibility=hidden -ffp-contract=off -DFASTRPN_CUDA_ON_CPU"
    compiler = f"{harness.compiler_path()} {flags} -I{harness.ROOT / 'csrc'} -I{harness.HERE}"
    return [
        *rule("host", f"{compiler} -MMD -MF $out.d -x c++ -c $in -o $out"),
        *rule("kernel", f"{compiler} -I$changed -MMD -MF $out.d -x c++ -c $in -o $out"),
        "rule link",
        f"  command = {harness.compiler_path()} -shared -Wl,-Bsymbolic -o $out $in",
    ]


def cuda_rules() -> list[str]:
    """nvcc for the GPU that is present, or for FASTRPN_SWEEP_ARCH, e.g. sm_90."""
    launcher = os.environ.get("CMAKE_CUDA_COMPILER_LAUNCHER", "")
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise RuntimeError("the sweep needs nvcc")
    arch = os.environ.get("FASTRPN_SWEEP_ARCH", "native")
    flags = f"-std=c++17 -O3 --fmad=false -arch={arch} -Xcompiler=-fPIC,-fvisibility=hidden"
    compiler = f"{launcher} {nvcc} {flags} -I{harness.ROOT / 'csrc'}"
    return [
        *rule("host", f"{compiler} -I{harness.HERE} -MD -MF $out.d -c $in -o $out"),
        *rule("kernel", f"{compiler} -I$changed -MD -MF $out.d -c $in -o $out"),
        "rule link",
        # A torch that has loaded its own CUDA runtime must not lend it to the instances.
        f"  command = {nvcc} -arch={arch} -shared -cudart=static -Xlinker=--exclude-libs=ALL "
        "-o $out $in",
    ]


def rule(name: str, command: str) -> list[str]:
    return [f"rule {name}", f"  command = {command}", "  depfile = $out.d", "  deps = gcc"]


def edges(instance: Instance, folder: Path, shared: list[str]) -> list[str]:
    """ninja's lines for one instance; its changed sources are written beside."""
    name, kernel = instance.name, f"ops/{instance.op}/{instance.op}_cuda.cu"
    changed = folder / name
    sources = instance.sources()
    for file, text in sources.items():
        write(changed / file, text)
    source = (changed if kernel in sources else CSRC) / kernel
    run = f"run_{instance.op}.cpp"
    objects = [f"{name}.o", f"{name}_run.o", *shared]
    objects += [f"{source.stem}.o" for source in harness.cpu_sources(instance.op)]
    return [
        f"build {name}.o: kernel {source}",
        f"  changed = {changed}",
        f"build {name}_run.o: host {harness.HERE / run}",
        f"build {name}.so: link {' '.join(objects)}",
    ]


def write(path: Path, text: str) -> None:
    """Leaves a file that says so already as it is, and with it what was built from it."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Library:
    """One instance, loaded. Inputs and outputs have the names of tests/cuda_on_cpu/run_<op>.cpp."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("run_instance", "output_name", "copy_output"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._library.copy_output.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self._library.run_instance.argtypes = [ctypes.c_void_p]
        self._inputs: dict[str, Tensor] = {}

    def give(self, inputs: dict[str, Tensor | float]) -> None:
        """Sets what the op reads: contiguous tensors on the device, and numbers."""
        for name, value in inputs.items():
            if not isinstance(value, Tensor):
                value = torch.tensor(float(value), dtype=torch.float64)
            self._inputs[name] = value  # keeps the memory
            shape = (ctypes.c_int64 * value.dim())(*value.shape)
            few = value.numel() <= ON_HOST
            elements = value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes() if few else None
            self._library.set_input(
                *(name.encode(), harness.TYPES[value.dtype].encode(), value.dim(), shape),
                *(ctypes.c_void_p(value.data_ptr()), elements),
            )

    def run(self) -> None:
        """Queues the op on torch's current stream.

        Raises:
            RuntimeError: the op or CUDA objects.
        """
        on_gpu = any(x.is_cuda for x in self._inputs.values())
        stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
        self._raise(self._library.run_instance(stream))

    def outputs(self) -> dict[str, Tensor]:
        """The last run's, on the host."""
        found: dict[str, Tensor] = {}
        kind, shape = ctypes.c_char_p(), ctypes.POINTER(ctypes.c_int64)()
        dimensions = ctypes.c_int()
        place = [ctypes.byref(x) for x in (kind, shape, dimensions)]
        while (name := self._library.output_name(len(found), *place)) is not None:
            dtype = harness.DTYPES[kind.value.decode()]
            tensor = torch.empty(shape[: dimensions.value], dtype=dtype)
            self._raise(self._library.copy_output(len(found), tensor.data_ptr()))
            found[name.decode()] = tensor
        return found

    def release(self) -> None:
        """Frees the memory that the instance took, and forgets its inputs."""
        self._library.release()
        self._inputs.clear()

    @staticmethod
    def _raise(message: bytes | None) -> None:
        if message is not None:
            raise RuntimeError(message.decode())
