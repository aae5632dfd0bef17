"""Runs cases in several processes until the time or the number of calls is up."""

import multiprocessing
import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .cases import CPU, CUDA_NAMES, Finding, run_case, shrunk

CUDA_SHARE = 0.15  # of the time of one process: a case of the harness takes some tenths of a second
FINDINGS_OF_AN_OP = 3  # after which a process leaves the operator alone
LONGEST_CASE = 300.0  # seconds
REPORT_EVERY = 0.5  # seconds


@dataclass
class Report:
    """What a run came to."""

    cases: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)
    undecided: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Report") -> None:
        for name in ("cases", "calls", "undecided"):
            getattr(self, name).update(getattr(other, name))
        self.findings += other.findings


def cases_of(names: list[str], seed: int, first: int, step: int) -> Iterator[str]:
    """Names of cases without end, each operator in turn, the kernels of the harness seldom."""
    indices = dict.fromkeys(names, first)

    def next_of(name: str) -> str:
        indices[name] += step
        return f"{name}:{seed}:{indices[name] - step}"

    on_cpu, in_harness = ([n for n in names if (n in CUDA_NAMES) == cuda] for cuda in (False, True))
    start, used, turn = time.perf_counter(), 0.0, 0
    while on_cpu or in_harness:
        yield from map(next_of, on_cpu)
        while in_harness and (not on_cpu or used < CUDA_SHARE * (time.perf_counter() - start)):
            before = time.perf_counter()
            yield next_of(in_harness[turn % len(in_harness)])
            used += time.perf_counter() - before
            turn += 1


def run_here(
    names: list[str], seed: int, stop: Callable[[], bool], tell: Callable[[Report], None],
    now: Callable[[str], None] = lambda case: None, first: int = 0, step: int = 1,
) -> None:  # fmt: skip
    """Runs cases in this process until `stop()`; `tell` gets what is new twice a second.

    `now` hears the name of each case before it runs.
    """
    new, told, found = Report(), time.perf_counter(), Counter()
    for case in cases_of(names, seed, first, step):
        if stop():
            break
        op = case.split(":")[0]
        if found[op] >= FINDINGS_OF_AN_OP:
            if all(found[name] >= FINDINGS_OF_AN_OP for name in names):
                break
            continue
        now(case)
        outcome = run_case(case)
        new.cases[op] += 1
        new.calls[op] += outcome.calls
        new.undecided[op] += outcome.undecided
        if outcome.finding:
            found[op] += 1
            new.findings.append(shrunk(outcome.finding))
        if time.perf_counter() - told > REPORT_EVERY or outcome.finding:
            tell(new)
            new, told = Report(), time.perf_counter()
    tell(new)


def _work(names, seed, first, step, reports, stop, current, since) -> None:
    import torch

    torch.set_num_threads(1)
    reports.put(Report())  # ready

    def now(case: str) -> None:
        current.value, since.value = case.encode(), time.time()

    run_here(names, seed, stop.is_set, reports.put, now, first, step)
    current.value = b""


def run(
    names: list[str],
    seed: int,
    *,
    seconds: float,
    calls: int | None = None,
    processes: int = 2,
    tell: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Runs cases of the operators in several processes; a process that dies is a finding, too."""
    # Threads that wait must not spin: these processes are as many as there are cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    workers = []
    for rank in range(processes):
        # The harness is one process's business.
        mine = [name for name in names if name in CPU or rank == 0]
        current, since = context.Array("c", 200), context.Value("d", time.time())
        arguments = (mine, seed, rank, processes, reports, stop, current, since)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        workers.append((process, current, since))
    total, start = Report(), None
    while workers:
        if start is not None:  # the time of the imports does not count
            total.seconds = time.perf_counter() - start
        if total.seconds > seconds or (calls is not None and total.calls.total() >= calls):
            stop.set()
        try:
            total.add(reports.get(timeout=0.2))
            start = start or time.perf_counter()
        except queue.Empty:
            workers = [worker for worker in workers if still_runs(*worker, total)]
        tell(total)
    return total


def still_runs(process, current, since, total: Report) -> bool:
    """False if the process has ended, in whatever way."""
    case = current.value.decode()
    if process.is_alive() and time.time() - since.value > LONGEST_CASE:
        process.kill()
        process.join()
        total.findings.append(Finding(case, f"no end after {LONGEST_CASE:.0f} s"))
        return False
    if process.is_alive():
        return True
    if process.exitcode != 0:
        total.findings.append(Finding(case, f"the process died, exit code {process.exitcode}"))
    return False
