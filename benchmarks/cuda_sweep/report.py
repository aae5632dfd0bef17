"""What the sweep of the constants found, as a table of benchmarks.cuda_report."""

from benchmarks.tables import table

HEADER = ["op", "work", "constant", "chosen: µs", "best: µs", "gain", "verdict"]
WORTH = 0.03  # a gain below that is no reason to change a constant


def sweep_summary(sweep: dict) -> list[str]:
    """Markdown: for each constant and work the best value beside the chosen one."""
    rows = [line for row in sweep["sweep"] for line in lines_of(row)]
    return [
        "## Constants",
        "",
        "Medians ± half the distance of the quartiles. A value wins where its quartiles and those "
        f"of the chosen one do not meet and it gains at least {WORTH:.0%}.",
        "",
        table(HEADER, rows),
        "",
    ]


def lines_of(row: dict) -> list[list[str]]:
    """One line for each constant that was tried on a work."""
    chosen = next(x for x in row["instances"] if x["constant"] is None)
    by_constant: dict[str, list[dict]] = {}
    for instance in row["instances"]:
        if instance["constant"] is not None:
            by_constant.setdefault(instance["constant"], []).append(instance)
    lines = []
    for constant, others in by_constant.items():
        best = min([chosen, *others], key=lambda x: x["milliseconds"])
        old = ", ".join(others[0]["chosen"])
        new = old if best is chosen else ", ".join(best["values"])
        gain = chosen["milliseconds"] / best["milliseconds"] - 1
        figures = [f"{old}: {time_of(chosen)}", f"{new}: {time_of(best)}", f"{gain:.1%}"]
        lines.append([row["op"], row["work"], constant, *figures, verdict(chosen, best, new)])
    return lines


def time_of(instance: dict) -> str:
    return f"{1e3 * instance['milliseconds']:.1f} ± {500 * instance['spread']:.1f}"


def verdict(chosen: dict, best: dict, new: str) -> str:
    """Whether the best value is better than the chosen one by more than both spread."""
    gap = chosen["milliseconds"] - best["milliseconds"]
    clear = gap > (chosen["spread"] + best["spread"]) / 2
    worth = chosen["milliseconds"] > (1 + WORTH) * best["milliseconds"]
    return f"**{new}**" if clear and worth else "stays"
