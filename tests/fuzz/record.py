"""Writes record.md: what the last long run called, and what it found."""

import datetime
from pathlib import Path

import torch
import torchvision

import fastrpn

from .run import Report
from .trial import simd_levels

RECORD = Path(__file__).with_name("record.md")


def write_record(report: Report, seed: int) -> None:
    """Replaces the record by that of this run."""
    calls = report.calls.total()
    rows = [
        f"| {name} | {report.cases[name]:,} | {report.calls[name]:,} | {report.undecided[name]:,} |"
        for name in sorted(report.cases)
    ]
    lines = [
        "# The longest run of the fuzzer",
        "",
        f"Written by `python -m tests.fuzz --record --seed {seed} --calls {calls}` on "
        f"{datetime.date.today()}.",
        "",
        f"fastrpn {fastrpn.__version__}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, SIMD levels {', '.join(simd_levels())}: {calls:,} calls of "
        f"{report.cases.total():,} cases in {report.seconds / 60:.0f} minutes, "
        f"{len(report.findings)} findings.",
        "",
        "A case is one input; it is called with several memory layouts, SIMD levels and numbers of",
        "threads. Undecided are results that the rounding of an `exp()` may turn either way.",
        "",
        "| operator | cases | calls | undecided |",
        "|---|---:|---:|---:|",
        *rows,
        f"| all | {report.cases.total():,} | {calls:,} | {report.undecided.total():,} |",
        "",
        *(f"- `{finding.case}`: {finding.message.splitlines()[0]}" for finding in report.findings),
    ]
    RECORD.write_text("\n".join(lines).rstrip() + "\n")
