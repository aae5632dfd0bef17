"""Tables in Markdown, for documents and for the terminal: the one writer of all benchmarks."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[object], rows: Iterable[Iterable[object]], padded: bool = False) -> str:
    """A Markdown table, without a line break at its end.

    Args:
        header: the columns' names.
        rows: the cells, as many as there are columns; what is no text is written as str() does.
        padded: columns of even width, which read well as plain text.
    """
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    widths = [max(map(len, column)) if padded else 0 for column in zip(*lines, strict=True)]
    lines = [map(str.ljust, line, widths) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
