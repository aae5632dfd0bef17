"""The command line: `python -m tests.fuzz --help`."""

import argparse
import datetime
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .cases import CPU, NAMES, Finding, find, run_case
from .record import write_record
from .run import Report, run


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if anything was found."""
    options = _parse(arguments)
    console = Console()
    if options.replay:
        outcome = run_case(options.replay)
        if outcome.finding:
            _show(console, outcome.finding)
        else:
            console.print(
                f"{options.replay}: {outcome.calls} calls, nothing found", highlight=False
            )
        return int(outcome.finding is not None)
    names = options.op or list(NAMES if _harness_runs(console) else CPU)
    console.print(f"seed {options.seed}, {len(names)} operators", highlight=False)
    report = _run_with_a_bar(console, names, options)
    console.print(_table(report))
    for finding in report.findings:
        _show(console, finding)
    if options.record:
        write_record(report, options.seed)
    found = len(report.findings)
    console.print(f"{found} findings" if found != 1 else "1 finding")
    return int(found > 0)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    today = int(datetime.date.today().strftime("%Y%m%d"))
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long; without --calls 2")
    parser.add_argument("--calls", type=int, help="end after this many calls of operators")
    parser.add_argument("--seed", type=int, default=today, help="the day's date if not given")
    parser.add_argument("--op", action="append", metavar="NAME", help="only this operator (again)")
    parser.add_argument("--replay", metavar="CASE", help="run one case: op:seed:index[:limit]")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="write tests/fuzz/record.md")
    options = parser.parse_args(arguments)
    for name in (*(options.op or ()), *((options.replay or "").split(":")[:1])):
        if name:
            try:
                find(name)
            except ValueError as error:
                parser.error(str(error))
    return options


def _harness_runs(console: Console) -> bool:
    """Builds the harness before the clock starts; says so where it cannot run."""
    from tests.cuda_on_cpu import harness

    reason = harness.why_unavailable()
    if reason:
        console.print(f"without the CUDA kernels: {reason}", highlight=False)
    else:
        harness.build()
    return reason is None


def _run_with_a_bar(console: Console, names: list[str], options: argparse.Namespace) -> Report:
    seconds = 60 * (options.minutes or (1e9 if options.calls else 2))
    columns = (
        BarColumn(),
        TextColumn("{task.fields[calls]:,} calls, {task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[found]} found"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=options.calls or seconds, calls=0, rate=0.0, found=0)

        def tell(report: Report) -> None:
            calls = report.calls.total()
            progress.update(
                task,
                completed=calls if options.calls else time.perf_counter() - start,
                calls=calls,
                rate=calls / max(report.seconds, 1e-9),
                found=len(report.findings),
            )

        return run(
            names, options.seed,
            seconds=seconds, calls=options.calls, processes=options.processes, tell=tell,
        )  # fmt: skip


def _table(report: Report) -> Table:
    table = Table("operator", "cases", "calls", "undecided", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in report.cases:
        counts = (report.cases[name], report.calls[name], report.undecided[name])
        table.add_row(name, *(f"{count:,}" for count in counts))
    calls = report.calls.total()
    rate = f"{calls / max(report.seconds, 1e-9):,.0f}/s"
    table.add_row("all", f"{report.cases.total():,}", f"{calls:,}", rate)
    return table


def _show(console: Console, finding: Finding) -> None:
    command = f"python -m tests.fuzz --replay {finding.case}"
    console.print(f"\n[red]found[/red] {command}", highlight=False, soft_wrap=True)
    console.print(finding.message, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
