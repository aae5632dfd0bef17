"""Metrics as a table on the terminal and as a JSON file."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastrpn.files import write_atomically

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "voc_ap_11pt": "VOC 11-point",
    "voc_ap_area": "VOC area",
}


def print_metrics(metrics: dict, console: Console | None = None) -> None:
    """Prints what `evaluate` returned: a row for each class and one for all."""
    table = Table("class", "objects", *COLUMNS.values())
    for name, numbers in metrics["per_class"].items():
        table.add_row(name, str(numbers["num_objects"]), *map(_cell, _select(numbers)))
    table.add_section()
    table.add_row("all", "", *map(_cell, _select(metrics)))
    (console or Console()).print(table)


def summary(metrics: dict) -> dict[str, float | None]:
    """The numbers over all classes of what `evaluate` returned."""
    return {name: metrics[name] for name in COLUMNS}


def write_json(path: str | Path, content: object) -> Path:
    """Writes JSON whole or not at all."""
    return write_atomically(path, json.dumps(content, indent=1).encode())


def _select(numbers: dict) -> list[float | None]:
    return [numbers[name] for name in COLUMNS]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
