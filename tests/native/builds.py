"""Builds the programs of this folder, once for each sanitizer, and runs them.

>>> builds.build("address", "run_cases")
>>> builds.run(builds.program("address", "run_cases"), "200", "nms")

Each sanitizer has a CMake build of its own under build/native.
"""

import fcntl
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "native"

OPS = (
    "box_iou",
    "nms",
    "soft_nms",
    "match_anchors",
    "generate_proposals",
    "roi_pool",
    "roi_pool_backward",
    "roi_align",
    "roi_align_backward",
)


class Build(NamedTuple):
    compiler: str
    flags: str
    levels: slice  # of those that this machine runs, from generic to the best


UNDEFINED = "undefined,float-cast-overflow -fno-sanitize-recover=all"
BUILDS = {
    "address": Build("g++", f"-O0 --coverage -fsanitize=address,{UNDEFINED}", slice(None)),
    # Threads are the same at every level.
    "thread": Build("g++", "-O1 --coverage -fprofile-update=atomic -fsanitize=thread", slice(0, 1)),
    # valgrind knows no AVX-512. Fortified: as distributions build, where checks need an optimiser.
    "valgrind": Build("g++", "-O1 --coverage -D_FORTIFY_SOURCE=3", slice(0, 2)),
    "fuzzer": Build("clang++", f"-O1 -fsanitize=fuzzer-no-link,address,{UNDEFINED}", slice(None)),
}
VALGRIND = ["valgrind", "--quiet", "--error-exitcode=9", "--num-callers=30"]
PACKAGES = {"g++": "g++", "clang++": "clang", "valgrind": "valgrind"}


class NativeError(RuntimeError):
    """A build or a program failed; the message is what it printed."""


def simd_levels() -> list[str]:
    """The SIMD levels that this machine runs."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["generic"]
    flags = set(Path("/proc/cpuinfo").read_text().split())
    levels = {"avx2": {"avx2", "f16c"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    return ["generic", *(level for level, needed in levels.items() if needed <= flags)]


def missing(name: str) -> str | None:
    """The tool that a sanitizer lacks here and how to install it, or None."""
    tools = [BUILDS[name].compiler, *(["valgrind"] if name == "valgrind" else [])]
    for tool in tools:
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt-get install {PACKAGES[tool]}"
    probe = shlex.split(f"{BUILDS[name].compiler} {BUILDS[name].flags} -x c++ - -o probe")
    with tempfile.TemporaryDirectory() as scratch:
        result = subprocess.run(
            probe, input="int main() {}", capture_output=True, text=True, cwd=scratch
        )
    return None if result.returncode == 0 else f"{name}: {result.stderr.strip()}"


def build(name: str, *targets: str) -> Path:
    """Brings targets up to date, or everything, and returns the folder of the build."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    levels = ";".join(simd_levels()[BUILDS[name].levels])
    options = {
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_CXX_COMPILER": shutil.which(BUILDS[name].compiler),
        "CMAKE_CXX_FLAGS": BUILDS[name].flags,
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "FASTRPN_NATIVE_TESTS": levels,
        "FASTRPN_FUZZERS": "ON" if name == "fuzzer" else "OFF",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build at a time, whoever asks
        cache = [f"-D{option}={value}" for option, value in options.items()]
        _call(["cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *cache], env)
        _call(["cmake", "--build", folder, "--target", *(targets or ("all",))], env)
    return folder


def program(name: str, target: str) -> Path:
    return BUILD / name / "tests" / "native" / target


def run(*command: object, **environment: str) -> str:
    """Runs a program; returns what it printed. Raises NativeError if it or a sanitizer objects."""
    env = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", **environment}
    env["TSAN_OPTIONS"] = "exitcode=66 halt_on_error=1"
    return _call(command, env)


def _call(command: list | tuple, env: dict) -> str:
    arguments = [str(word) for word in command]
    result = subprocess.run(arguments, capture_output=True, text=True, errors="replace", env=env)
    if result.returncode != 0:
        output = result.stdout[-4000:] + result.stderr[-8000:]
        raise NativeError(f"{shlex.join(arguments)}: exit code {result.returncode}\n{output}")
    return result.stdout + result.stderr


def build_mutant(name: str, source: str, file: str, old: str, new: str) -> Path:
    """run_cases with a fault planted in csrc/<file>, for the kernel csrc/<source>.

    `new` stands instead of `old`; only the best level of the build is replaced.
    """
    folder = build(name, "run_cases")
    text = (ROOT / "csrc" / file).read_text()
    assert text.count(old) == 1, f"{file} has {text.count(old)} copies of {old!r}"
    tree = folder / "planted" / Path(file).stem
    mutant = tree / file
    mutant.parent.mkdir(parents=True, exist_ok=True)
    mutant.write_text(text.replace(old, new))

    commands = json.loads((folder / "compile_commands.json").read_text())
    original = ROOT / "csrc" / source
    command = [c for c in commands if Path(c["file"]) == original][-1]["command"]
    words = shlex.split(command)
    words = words[: words.index("-o")]
    env = dict(os.environ)
    compiled = mutant if file == source else original
    where = [f"-I{tree}", *words[1:], "-c", compiled, "-o", tree / "kernel.o"]
    _call([words[0], *where], env)
    # Before the library, which then has nothing to add for these symbols.
    objects = sorted((folder / "tests" / "native").rglob("*.o"))
    flags = shlex.split(BUILDS[name].flags)
    link = [*flags, tree / "kernel.o", *objects, folder / "libcpu_kernels.a", "-pthread"]
    _call([words[0], *link, "-o", tree / "run_cases"], env)
    return tree / "run_cases"
