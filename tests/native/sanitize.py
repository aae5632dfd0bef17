"""Runs the native code under sanitizers, valgrind and fuzzers: `make sanitize`.

$ python tests/native/sanitize.py --seconds 300

Prints what ran. Ends with exit code 1 if anything was found or a tool is missing.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cuda_on_cpu import coverage, harness  # noqa: E402

from native import builds  # noqa: E402

# Cases of each kernel; every 16th is large.
CASES = {"address": 800, "thread": 160, "valgrind": 48}
FINDINGS = builds.BUILD / "findings"
CORPUS = builds.BUILD / "corpus"


def lines_run(build: Path, pattern: str) -> str:
    lines_of = coverage.executed_lines(build, pattern)
    total = sum(len(lines) for lines in lines_of.values())
    ran = sum(count > 0 for lines in lines_of.values() for count in lines.values())
    return f"{ran} of {total} lines of csrc ({100 * ran / total:.1f} %)"


def run_cases(name: str) -> str:
    """The CPU kernels under one of the sanitizers, or under valgrind."""
    folder = builds.build(name, "run_cases")
    for old in folder.rglob("*.gcda"):
        old.unlink()
    tool = builds.VALGRIND if name == "valgrind" else []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        program, cases = builds.program(name, "run_cases"), CASES[name]
        list(pool.map(lambda op: builds.run(*tool, program, cases, op), builds.OPS))
    return f"{CASES[name] * len(builds.OPS)} cases, {lines_run(folder, '*_cpu.cpp.gcda')}"


def address() -> str:
    return run_cases("address")


def thread() -> str:
    return run_cases("thread")


def valgrind() -> str:
    return run_cases("valgrind")


def numpy() -> str:
    """The NumPy front end under valgrind. Errors within Python itself are none of ours."""
    report = builds.BUILD / "numpy.xml"
    level = "avx2" if "avx2" in builds.simd_levels() else "generic"
    tool = ["valgrind", "--quiet", "--num-callers=8", "--error-limit=no"]
    program = [
        "--xml=yes",
        f"--xml-file={report}",
        sys.executable,
        builds.HERE / "numpy_cases.py",
    ]
    environment = {"PYTHONMALLOC": "malloc", "FASTRPN_SIMD": level, "PYTHONPATH": str(builds.ROOT)}
    printed = builds.run(*tool, *program, **environment)
    ours = [error for error in xml.parse(report).iter("error") if is_ours(error)]
    if ours:
        raise builds.NativeError("\n".join(describe(error) for error in ours[:5]))
    return f"{printed.strip()} at {level}"


def is_ours(error: xml.Element) -> bool:
    """Whether it happened in the module, or in what the module called, as memcpy.

    Not leaks: Python keeps the module's own objects until the end.
    """
    if error.findtext("kind", "").startswith("Leak_"):
        return False
    stack = error.find("stack")
    innermost = [frame.findtext("obj", "") for frame in stack.findall("frame")[:3]]
    return any("/_C." in path for path in innermost)


def describe(error: xml.Element) -> str:
    frames = error.find("stack").findall("frame")
    return "\n  ".join([error.findtext("kind", ""), *(f.findtext("fn", "?") for f in frames)])


def fuzzers(seconds: int) -> str:
    """A fuzzer for each kernel, as many at once as there are cores."""
    builds.build("fuzzer")
    FINDINGS.mkdir(exist_ok=True)
    each = max(1, seconds * os.cpu_count() // len(builds.OPS))

    def fuzz(op: str) -> str:
        corpus = CORPUS / op
        corpus.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={each}", "-max_len=4096", "-timeout=60", "-rss_limit_mb=4096"]
        options += [f"-artifact_prefix={FINDINGS}/{op}-", "-print_final_stats=1"]
        printed = builds.run(builds.program("fuzzer", f"fuzz_{op}"), *options, corpus)
        runs = re.search(r"number_of_executed_units: (\d+)", printed)[1]
        edges = re.findall(r"cov: (\d+)", printed)[-1]
        return f"  {op}: {runs} inputs, {edges} edges"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return "\n".join([f"{each} s each", *pool.map(fuzz, builds.OPS)])


def run_tests(*arguments: object) -> str:
    """The last line that pytest prints."""
    command = [sys.executable, "-m", "pytest", "-q", *map(str, arguments)]
    env = {**os.environ, "FASTRPN_SANITIZE": "1"}
    result = subprocess.run(command, cwd=builds.ROOT, capture_output=True, text=True, env=env)
    if result.returncode != 0:
        raise builds.NativeError(result.stdout[-6000:])
    return result.stdout.strip().splitlines()[-1]


def planted() -> str:
    """Faults planted in copies of the kernels: each tool finds its kind."""
    return run_tests(builds.HERE, "-k", "planted")


def cuda_on_cpu() -> str:
    """The CUDA kernels in their harness, with its own tests."""
    build = harness.build()
    for old in build.glob("*.gcda"):
        old.unlink()
    summary = run_tests(harness.HERE)
    return f"{summary}, {lines_run(build, '*_cuda.gcda')}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300, help="of all fuzzers together")
    parser.add_argument("--skip-missing", action="store_true", help="a missing tool is no failure")
    parser.add_argument("--only", nargs="+", help="names of steps")
    options = parser.parse_args()
    steps = {  # name: (what must be there, step)
        "address": ("address", address),
        "thread": ("thread", thread),
        "valgrind": ("valgrind", valgrind),
        "numpy": ("valgrind", numpy),
        "fuzzers": ("fuzzer", lambda: fuzzers(options.seconds)),
        "planted": ("valgrind", planted),
        "cuda_on_cpu": ("address", cuda_on_cpu),
    }
    unknown = set(options.only or ()) - set(steps)
    if unknown:
        parser.error(f"--only: unknown steps {sorted(unknown)}, choose from {list(steps)}")
    failed = False
    for name in options.only or steps:
        needed, step = steps[name]
        started = time.monotonic()
        reason = builds.missing(needed)
        if reason:
            failed = failed or not options.skip_missing
            print(f"{name}: {'skipped' if options.skip_missing else 'FAILED'}: {reason}")
            continue
        try:
            print(f"{name}: {step()}, {time.monotonic() - started:.0f} s", flush=True)
        except (builds.NativeError, harness.HarnessError) as error:
            failed = True
            print(f"{name}: FAILED\n{error}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
