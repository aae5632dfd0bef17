"""Which kernels the GPU's time goes to: `python -m benchmarks.cuda_profile`.

Runs our side of every case of benchmarks.cuda_cases once under torch's profiler and adds the time
of each kernel to benchmarks/results/<gpu>.json. With --once each case runs once between the
profiler's start and stop, for NVIDIA's ncu, which says what limits a kernel:

$ ncu --profile-from-start off --set basic --csv python -m benchmarks.cuda_profile --once
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import cuda_cases
from benchmarks.cuda_results import environment, result_file, save
from benchmarks.cuda_timing import Call, Case

MANY_BOXES = 100_000  # of NMS
LIMITS = ("Memory Throughput", "Compute (SM) Throughput")  # ncu's names, in percent of the peak


def our_calls(is_dry: bool) -> Iterator[tuple[Case, Call]]:
    """Every case with its call, warmed up."""
    for cases in cuda_cases.ALL:
        for case in cases(is_dry):
            inputs = [x.to("cpu" if is_dry else "cuda") for x in case.make()]
            call = case.libraries["fastrpn"](*inputs)
            call()
            yield case, call


def kernels_of(call: Call, is_dry: bool) -> dict[str, dict[str, float]]:
    """{kernel: launches and microseconds} of one call; on the CPU, of torch's operators."""
    activity = ProfilerActivity.CPU if is_dry else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        call()
        if not is_dry:
            torch.cuda.synchronize()
    found = {}
    for event in profiler.key_averages():
        time = event.self_cpu_time_total if is_dry else event.self_device_time_total
        if time > 0:
            found[event.key] = {"launches": event.count, "microseconds": time}
    return dict(sorted(found.items(), key=lambda item: -item[1]["microseconds"]))


def run_once(is_dry: bool) -> None:
    """All calls, each between the profiler's start and stop; but for those that launch hundreds of
    kernels, of which ncu profiles two or three a second."""
    for case, call in our_calls(is_dry):
        if case.size >= MANY_BOXES and case.op == "nms":
            continue
        if is_dry:
            call()
            continue
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        call()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def limits_in(log: Path) -> dict[str, dict[str, float]]:
    """{kernel: {limit: percent}} from ncu's CSV; the greatest of a kernel's launches."""
    lines = log.read_text(errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in csv.DictReader(lines[start:]):
        name, metric = row.get("Kernel Name"), row.get("Metric Name")
        if name and metric in LIMITS and row.get("Metric Unit") == "%":
            value = float(row["Metric Value"].replace(",", ""))
            found[name][metric] = max(value, found[name].get(metric, 0.0))
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="small, on the CPU")
    parser.add_argument("--once", action="store_true", help="only run, under ncu")
    parser.add_argument("--ncu", type=Path, help="the CSV that ncu wrote, if it ran")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<gpu>.json")
    options = parser.parse_args()
    output = result_file(options.output, options.dry_run)
    if options.once:
        return run_once(options.dry_run)

    results = environment(options.dry_run)
    results["kernels"] = rows = []
    for case, call in our_calls(options.dry_run):
        rows.append(
            {"op": case.op, "work": case.work, "kernels": kernels_of(call, options.dry_run)}
        )
        save(output, "profile", results)
    if options.ncu is not None and options.ncu.exists():
        results["limits"] = limits_in(options.ncu)
        save(output, "profile", results)
    print(f"{len(rows)} cases, limits of {len(results.get('limits', {}))} kernels")


if __name__ == "__main__":
    main()
