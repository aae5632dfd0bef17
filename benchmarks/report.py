"""Result files as Markdown: `python -m benchmarks.report FOLDER [DOCUMENT.md]`.

Prints what the folder's JSON files say, or puts it between the two marks of the document: the
targets, the drop-in, where a peer is faster, how cost grows.
"""

import json
import sys
from pathlib import Path

from benchmarks.tables import table
from benchmarks.targets import TARGETS
from benchmarks.timing import NOISY, WATCHED

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
DEVIATION = 0.15  # of a slope from the predicted one; greater ones are explained
NO_PEERS = {"fill", "reference", "fastrpn", "fastrpn nms", "fastrpn.numpy"}


def number(value: float | None) -> str:
    """Three digits are all that a median of noisy runs holds."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def target_table(measurements: list[dict]) -> str:
    rows = {(m["op"], m["work"]): m for m in measurements}
    cells = []
    for target in TARGETS:
        value = target.measured(rows)
        figures = number(target.must), number(target.aim), number(value)
        verdict = target.verdict(value)
        of_minima = number(target.by_minima(rows))
        cells.append([target.op, target.work, target.quantity, *figures, verdict, of_minima])
    header = ["op", "work", "quantity", "must", "aim", "measured", "reaches", "of the minima"]
    return table(header, cells)


def drop_in_table(measurements: list[dict]) -> str:
    cells = [
        [
            m["work"],
            number(m["milliseconds"]["torchvision"]),
            number(m["milliseconds"]["fastrpn"]),
            f"{m['speedup']['torchvision']:.2f}×",
            ", ".join(f"{value:,} {name}" for name, value in m["notes"].items()),
        ]
        for m in measurements
        if m["op"] == "drop_in"
    ]
    header = ["unchanged code", "torchvision, ms", "accelerated, ms", "gain", "work"]
    return table(header, cells)


def fill_table(measurements: list[dict]) -> str:
    cells = []
    for m in (m for m in measurements if "fill" in m["milliseconds"]):
        ours, fill = m["milliseconds"]["fastrpn"], m["milliseconds"]["fill"]
        share = m["notes"].get("share of fill speed", fill / ours)
        cells.append([m["op"], m["work"], number(ours), number(fill), f"{share:.2f}"])
    return table(["op", "work", "our ms", "fill, ms", "share of fill speed"], cells)


def scanned_rows(scan: dict) -> list[dict]:
    """The rows of all scans, as those of results.json; `work` is what they have in common."""
    rows = [m | {"work": m["notes"].get("regime", "")} for m in scan["regimes"] if m]
    for m in scan.get("other regimes", []):
        op, _, work = m["op"].partition(", ")
        rows.append(m | {"op": op, "work": work})
    for growth in scan["growth"]:
        op, _, work = growth["title"].partition(", ")
        by_size: dict[int, dict[str, float]] = {}
        for library, points in growth["milliseconds"].items():
            for size, milliseconds in points:
                by_size.setdefault(size, {})[library] = milliseconds
        rows += [
            {"op": op, "work": work, "size": size, "milliseconds": milliseconds}
            for size, milliseconds in by_size.items()
        ]
    return rows


def loss_table(measurements: list[dict], scanned: list[dict]) -> str:
    """A row for each work of results.json, then one for each input that was scanned."""
    cells = [
        [m["op"], m["work"], "", name, number(milliseconds), number(m["milliseconds"]["fastrpn"])]
        for m in measurements
        for name, milliseconds in faster_peers(m).items()
    ]
    lost: dict[tuple[str, str, str], dict[int, tuple[float, float]]] = {}
    for m in scanned:
        for name, milliseconds in faster_peers(m).items():
            pair = milliseconds, m["milliseconds"]["fastrpn"]
            at_size = lost.setdefault((m["op"], m["work"], name), {})
            at_size[m["size"]] = min(pair, at_size.get(m["size"], pair), key=ratio)
    for (op, work, name), by_size in lost.items():
        theirs, ours = min(by_size.values(), key=ratio)
        sizes = ", ".join(f"{size:,}" for size in sorted(by_size))
        cells.append([op, work, sizes, name, number(theirs), number(ours)])
    header = ["op", "work", "scanned sizes", "peer", "its ms", "our ms"]
    return table(header, cells) if cells else "Nowhere."


def faster_peers(m: dict) -> dict[str, float]:
    ours = m["milliseconds"]["fastrpn"]
    return {k: ms for k, ms in m["milliseconds"].items() if k not in NO_PEERS and ms < ours}


def ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


def growth_table(growth: list[dict]) -> str:
    """Slopes beside the predicted one, and a sentence for each that differs."""
    libraries = list(dict.fromkeys(name for scan in growth for name in scan["slopes"]))
    libraries = [name for name in libraries if name != "fill"]
    cells, sentences = [], []
    for scan in growth:
        largest = scan["milliseconds"]["fastrpn"][-1]
        predicted, measured = scan.get("predicted"), scan["slopes"].get("fastrpn")
        slopes = [number(scan["slopes"].get(name)) for name in libraries]
        size_and_ms = f"{largest[0]:,}: {number(largest[1])} ms"
        cells.append([scan["title"], number(predicted), *slopes, size_and_ms])
        if predicted and measured and abs(measured - predicted) > DEVIATION:
            sentences.append(
                f"- {scan['title']}: {measured:g} instead of {predicted:g}; {scan['why']}."
            )
    found = table(["op", "predicted", *libraries, "our largest"], cells)
    return found + ("\n\n" + "\n".join(sentences) if sentences else "")


def padded_table(padded: dict) -> str:
    wanted = list(padded["rows"][0]["gains"])
    cells = [
        [row["scene"], f"{row['kept']:,}", f"{row['rank of the last']:,}"]
        + [f"{row['gains'][k]:.1f}×" for k in wanted]
        for row in padded["rows"]
    ]
    last = f"rank of the {int(wanted[-1]):,}th"
    return table(["boxes", "kept of all", last, *(f"first {int(k):,}" for k in wanted)], cells)


def noisy_rows(measurements: list[dict]) -> str:
    """What was measured again, and what stayed noisy."""
    again = [m for m in measurements if "measured again" in m["notes"]]
    left = [
        f"{m['op']} {m['work']}"
        for m in measurements
        if max(m["spread"].get(name, 0) for name in WATCHED) > NOISY
    ]
    return (
        f"{len(again)} of {len(measurements)} rows were measured again for their spread; "
        f"still above {NOISY}: {'; '.join(left) or 'none'}."
    )


def scan_parts(scan: dict) -> list[str]:
    slower, others = scan["slower than torchvision"], len(scan.get("other regimes", []))
    counted = f"{len(scan['regimes'])} regimes of nms" + (f" and {others} of others" * bool(others))
    return [
        "### How cost grows",
        "Slopes on log-log axes over the largest inputs, medians of the slopes between any two of "
        "them (– where fewer than three runs took 0.1 ms).",
        growth_table(scan["growth"]),
        f"Of {counted}, slower than torchvision: {', '.join(slower) or 'none'}.",
    ]


def markdown(folder: Path) -> str:
    """Everything that the folder's files say."""
    results = read(folder, "results.json")
    scan, padded = read(folder, "scan.json"), read(folder, "padded_inputs.json")
    measurements = results["measurements"]
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items() if v)
    machine = f"{results['cpu']}, {results['threads']} threads, {results['simd_level']}"
    when = f"; commit {results['commit']}, {results['date']}" if "commit" in results else ""
    parts = [
        f"{machine}; {versions}{when}.",
        target_table(measurements),
        noisy_rows(measurements),
        "### Drop-in",
        drop_in_table(measurements),
        "### Beside the speed of filling a fresh output",
        fill_table(measurements),
        "### Where a peer is faster",
        "Of several scanned sizes, the times are those where it leads most.",
        loss_table(measurements, scanned_rows(scan) if scan else []),
    ]
    if padded:
        parts += [f"### nms_padded, {padded['boxes']:,} boxes @0.7", padded_table(padded)]
    return "\n\n".join(parts + (scan_parts(scan) if scan else []))


def read(folder: Path, name: str) -> dict:
    """A result file; nothing where it is missing."""
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else {}


def write(folder: Path, document: Path) -> None:
    """Replaces what stands between the marks."""
    before, rest = document.read_text().split(BEGIN)
    _, after = rest.split(END)
    document.write_text(f"{before}{BEGIN}\n{markdown(folder)}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        print(markdown(Path(sys.argv[1])))
