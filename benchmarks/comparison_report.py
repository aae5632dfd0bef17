"""The sections of benchmarks.html_report that compare two result files."""

from pathlib import Path

from benchmarks.compare import LEAST, Change, compare, machine_of, missing, parts_of
from benchmarks.page import Section, svg
from benchmarks.plots import change_chart
from benchmarks.report import number
from benchmarks.tables import table
from benchmarks.timing import NOISY

COLUMNS = ["op", "work", "times", "noise", "gain before", "gain after", "ours", "peer",
           "ms before", "ms after", "verdict"]  # fmt: skip


def sections(before: tuple[str, dict], after: tuple[str, dict]) -> list[Section]:
    """Regressions and what became faster; then all rows.

    Args:
        before, after: name of the file and what it holds.
    """
    old, new = before[1], after[1]
    changes = compare(old, new)
    text = [f"**{after[0]}** compared with **{before[0]}**.", *warnings(old, new)]
    for verdict, title, none in (
        ("slower", "Regressions", "None: no row became slower by more than its spread."),
        ("faster", "Faster", "No row became faster by more than its spread."),
    ):
        chosen = [change for change in changes if change.verdict == verdict]
        counted = f"### {title}: {len(chosen)} of {len(changes)}"
        text += [counted, table(COLUMNS, map(cells, chosen)) if chosen else none]
    text += [HOW, *only_in_one(before, after)]
    drawn = svg(lambda folder: draw(changes, folder))
    every = table(COLUMNS, map(cells, changes))
    return [
        Section("Comparison", "\n\n".join(text)),
        Section("Every row compared", every, list(drawn.values()), is_folded=True),
    ]


HOW = (
    "Compared are gains: a peer's time over ours, of one run. A row counts as changed once its "
    "gain changed by more than its noise, which is what the spreads of the four times explain "
    f"together, and at least {LEAST:.0%}; a single run has no spread and is taken to have "
    f"{NOISY:.0%}. Where both files hold the fastest runs, these must say the same."
)


def draw(changes: list[Change], folder: Path) -> list[Path]:
    return [change_chart(changes, folder / "changes.svg")] if changes else []


def cells(change: Change) -> list[str]:
    is_time = change.peer is None
    gains = (change.gain_before, change.gain_after)
    return [
        change.op,
        change.work,
        f"{change.factor:.2f}×",
        f"{100 * change.noise:.0f}%",
        *("" if is_time else f"{number(gain)}×" for gain in gains),
        change.name,
        change.peer or "none: times",
        number(change.before),
        number(change.after),
        change.verdict,
    ]


def warnings(old: dict, new: dict) -> list[str]:
    """What else than fastrpn differs."""
    found = []
    if machine_of(old) != machine_of(new):
        found.append(
            "The machines differ: a ratio to a peer cancels their speed in part only, and times "
            "without a peer are left out."
        )
    versions = [next(iter(parts_of(results).values()))["versions"] for results in (old, new)]
    others = [
        f"{name} {versions[0].get(name)} → {version}"
        for name, version in versions[1].items()
        if name != "fastrpn" and versions[0].get(name) != version
    ]
    if others:
        found.append(f"Other releases, whose changes count in the gains: {', '.join(others)}.")
    return found


def only_in_one(before: tuple[str, dict], after: tuple[str, dict]) -> list[str]:
    rows = missing(before[1], after[1])
    return [
        f"Only in {name}: {'; '.join(of)}."
        for name, of in zip((before[0], after[0]), rows, strict=True)
        if of
    ]
