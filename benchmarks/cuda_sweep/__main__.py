"""Tries other values of the kernels' constants: `python -m benchmarks.cuda_sweep`.

Every instance first gives what fastrpn's operators give, bit for bit; then all instances of an op
take turns on each work, with none of the data in the L2 cache. Adds the part "sweep" to
benchmarks/results/<gpu>.json after each work: medians and quartiles, for benchmarks.cuda_report.
With --dry-run the instances are built for the CPU's harness, one for each constant, and run once,
on small inputs; where nvcc is, those without a change are compiled by it too.
"""

import argparse
import random
import shutil
import statistics
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cuda_results import environment, result_file, save
from benchmarks.cuda_sweep.cases import Case, cases
from benchmarks.cuda_sweep.constants import Instance, instances
from benchmarks.cuda_sweep.library import Library, build
from benchmarks.cuda_timing import Timer

ROUNDS, SECONDS = 30, 4.0  # of a work: most rounds, and about how long they may take


def concerned(libraries: dict[Instance, Library], case: Case) -> dict[Instance, Library]:
    """The instances that may differ on a case: of its op, and of its half of the op."""
    return {
        instance: library
        for instance, library in libraries.items()
        if instance.op == case.op
        and (instance.constant is None or case.work.startswith(instance.constant.only))
    }


def on_device(inputs: dict[str, Tensor | float], device: str) -> dict[str, Tensor | float]:
    return {k: x.to(device) if isinstance(x, Tensor) else x for k, x in inputs.items()}


def check(library: Library, expected: dict[str, Tensor], instance: Instance, case: Case) -> None:
    """Raises AssertionError unless the instance's outputs are the expected ones."""
    library.run()
    found = library.outputs()
    for name, tensor in expected.items():
        same = torch.equal(found[name], tensor.cpu().reshape(found[name].shape))
        assert same, f"{instance.name}, {case.work}: {name} differs from fastrpn's"


def times_of(libraries: dict[Instance, Library], timer: Timer) -> dict[Instance, list[float]]:
    """Milliseconds of the instances' runs, which take turns."""
    if timer.is_dry:
        return {
            instance: [timer.wall_milliseconds(library.run)] * 2
            for instance, library in libraries.items()
        }
    first = {i: timer.event_milliseconds(library.run) for i, library in libraries.items()}
    rounds = max(5, min(ROUNDS, int(1e3 * SECONDS / sum(first.values()))))
    times: dict[Instance, list[float]] = {instance: [] for instance in libraries}
    order, shuffle = list(libraries.items()), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for instance, library in order:
            times[instance].append(timer.event_milliseconds(library.run))
    return times


def row_of(case: Case, libraries: dict[Instance, Library], timer: Timer) -> dict[str, object]:
    """Checks the instances on a case, then times them."""
    libraries = concerned(libraries, case)
    inputs = on_device(case.inputs, timer.device)
    expected = case.expected(inputs)
    try:
        for instance, library in libraries.items():
            library.give(inputs)
            check(library, expected, instance, case)
        times = times_of(libraries, timer)
    finally:
        for library in libraries.values():
            library.release()
    return {"op": case.op, "work": case.work, "instances": [*map(entry, times, times.values())]}


def entry(instance: Instance, times: list[float]) -> dict[str, object]:
    """What the results say of one instance: milliseconds, and the quartiles' distance in them."""
    low, median, high = statistics.quantiles(times, n=4)
    constant = instance.constant
    return {
        "constant": constant.name if constant else None,
        "chosen": list(constant.chosen) if constant else [],
        "values": list(instance.values),
        "milliseconds": median,
        "spread": high - low,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="once, small, on the CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<gpu>.json")
    options = parser.parse_args()
    output = result_file(options.output, options.dry_run)

    found = instances(options.dry_run)
    libraries = {k: Library(path) for k, path in build(found, options.dry_run).items()}
    print(f"{len(libraries)} instances built", flush=True)
    timer = Timer("cpu" if options.dry_run else "cuda")
    results = environment(options.dry_run)
    results["sweep"] = rows = []
    for case in cases(options.dry_run):
        rows.append(row_of(case, libraries, timer))
        best = min(rows[-1]["instances"], key=lambda x: x["milliseconds"])
        name = f"{best['constant']} {', '.join(best['values'])}" if best["constant"] else "as it is"
        print(
            f"{case.op} {case.work}: {len(rows[-1]['instances'])} instances equal, "
            f"fastest {1e3 * best['milliseconds']:.1f} µs: {name}",
            flush=True,
        )
        save(output, "sweep", results)
    if options.dry_run and shutil.which("nvcc"):
        build([instance for instance in found if instance.constant is None], is_dry=False)
        print("the instances without a change compile with nvcc")


if __name__ == "__main__":
    main()
