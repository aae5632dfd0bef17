"""Rows as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown_table"]


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows that share their keys as a Markdown table, padded so that it reads well as plain text.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("rows is empty")
    lines = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
