"""Result files as one HTML file, which needs nothing else to be read.

    python -m benchmarks.html_report RESULTS.json --output report.html
    python -m benchmarks.html_report OLD.json NEW.json --output report.html

Takes results.json of benchmarks.run_all, beside which the other files of its folder are read, or
the file of a GPU. Of two files the second is shown, and compared with the first row by row.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks import comparison_report, cuda_report, plots, report
from benchmarks.compare import parts_of
from benchmarks.cuda_sweep.report import sweep_summary
from benchmarks.page import Section, page, svg
from benchmarks.report import number
from benchmarks.tables import table

NAMES = {"cpu": "CPU", "gpu": "GPU", "simd_level": "SIMD", "python": "Python"}  # of facts


def load(path: Path) -> dict:
    """A result file.

    Raises:
        SystemExit: it cannot be read or holds no measurements; the message names it.
    """
    try:
        results = json.loads(path.read_text())
        if all(part["measurements"] for part in parts_of(results).values()) and parts_of(results):
            return results
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError):
        pass
    raise SystemExit(
        f"{path}: holds no measurements; wanted is a results.json of benchmarks.run_all or the "
        "<gpu>.json of benchmarks.cuda_ops"
    )


def environment_section(files: dict[str, dict]) -> Section:
    """Facts in rows, files in columns."""
    by_file = [facts(results) for results in files.values()]
    names = list(dict.fromkeys(name for of in by_file for name in of))
    rows = [[name, *(of.get(name, "") for of in by_file)] for name in names]
    return Section("Environment", table(["", *files], rows))


def facts(results: dict) -> dict[str, object]:
    """Whatever a file says about its run, but for the measurements."""
    part = next(iter(parts_of(results).values()))
    found: dict[str, object] = {}
    for name, value in part.items():
        if name == "versions":
            found |= {package: version or "not installed" for package, version in value.items()}
        elif name == "bytes_per_second":
            found |= {f"{of}, GB/s": f"{speed / 1e9:,.0f}" for of, speed in value.items()}
        elif name == "device":
            found |= {of: f"{x:,}" if isinstance(x, int) else x for of, x in value.items()}
        elif name != "measurements":
            found[NAMES.get(name, name)] = value
    return {name.replace("_", " "): value for name, value in found.items()}


def glance(measurements: list[dict]) -> str:
    """Gains over torchvision, op by op."""
    by_op: dict[str, list[float]] = {}
    for m in measurements:
        if gain := m["speedup"].get("torchvision"):
            by_op.setdefault(m["op"], []).append(gain)
    gains = [gain for of in by_op.values() for gain in of]
    rows = [
        [op, len(of), *(f"{number(x)}×" for x in (min(of), statistics.median(of), max(of)))]
        for op, of in by_op.items()
    ]
    header = ["op", "works", "least gain", "median gain", "greatest gain"]
    faster = sum(gain > 1 for gain in gains)
    sentence = f"Faster than torchvision in {faster} of {len(gains)} works that both did."
    return f"{sentence}\n\n{table(header, rows)}" if rows else "torchvision was not measured."


def every_row(measurements: list[dict]) -> str:
    """A table for each op: every library's median, ± half the distance of its quartiles."""
    parts = []
    for op in dict.fromkeys(m["op"] for m in measurements):
        rows = [m for m in measurements if m["op"] == op]
        libraries = list(dict.fromkeys(name for m in rows for name in m["milliseconds"]))
        cells = [[m["work"], *(cell(m, name) for name in libraries)] for m in rows]
        parts.append(f"### {op}\n\n" + table(["work, ms", *libraries], cells))
    return "\n\n".join(parts)


def cell(m: dict, name: str) -> str:
    if name not in m["milliseconds"]:
        return ""
    spread = m["spread"].get(name)
    return number(m["milliseconds"][name]) + (f" ± {50 * spread:.0f}%" if spread else "")


def cpu_sections(path: Path, results: dict) -> list[Section]:
    """What the files of the folder say."""
    measurements = results["measurements"]
    pictures = svg(lambda folder: plots.draw(path, folder, "svg"))
    scan, padded = (report.read(path.parent, f"{n}.json") for n in ("scan", "padded_inputs"))
    lost = report.loss_table(measurements, report.scanned_rows(scan) if scan else [])
    sections = [
        Section("Gain over torchvision", glance(measurements), [pictures["speedup"]]),
        Section("Targets", report.target_table(measurements)),
        Section("Drop-in", report.drop_in_table(measurements)),
        Section("Where a peer is faster", lost),
        Section("Beside the speed of filling a fresh output", report.fill_table(measurements)),
    ]
    if padded:
        title = f"nms_padded, {padded['boxes']:,} boxes @0.7"
        sections.append(Section(title, report.padded_table(padded)))
    if scan:
        drawn = svg(lambda folder: plots.draw_scan(path.parent / "scan.json", folder, "svg"))
        text = "\n\n".join(report.scan_parts(scan)[1:])
        sections.append(Section("How cost grows", text, list(drawn.values())))
    text = f"{report.noisy_rows(measurements)}\n\n{every_row(measurements)}"
    return [*sections, Section("Every row", text, [pictures["speedup_all"]], is_folded=True)]


def gpu_sections(results: dict) -> list[Section]:
    """What benchmarks.cuda_report says of each part."""
    sections = []
    for name, part in parts_of(results).items():
        rows = [m for m in part["measurements"] if m["speedup"].get("torchvision")]
        title = f"{part['gpu']}, {name}\n{cuda_report.versions_of(part)}"

        def draw(folder: Path, rows: list[dict] = rows, title: str = title) -> list[Path]:
            return [plots.bar_chart(rows, folder / "speedup.svg", title)] if rows else []

        header = ["op", "work", "quantity", "must", "aim", "measured", "reaches"]
        targets = table(header, cuda_report.target_rows(part["measurements"]))
        every = table(cuda_report.COLUMNS, cuda_report.time_rows(part["measurements"]))
        sections += [
            Section(f"Gain over torchvision: {name}", glance(rows), list(svg(draw).values())),
            Section(f"Targets: {name}", targets),
            Section(f"Every row: {name}", every, is_folded=True),
        ]
    for name, summary in (("sweep", sweep_summary), ("profile", cuda_report.profile_summary)):
        if name in results:
            heading, *lines = summary(results[name])
            title = heading.removeprefix("## ")
            sections.append(Section(title, "\n".join(lines), is_folded=True))
    return sections


def reproduction(results: dict) -> Section:
    """The commands that give such a file, with the releases that it names."""
    is_cpu = "measurements" in results
    part = next(iter(parts_of(results).values()))
    releases = " ".join(
        f"{name}=={version.partition('+')[0]}"
        for name, version in part["versions"].items()
        if version and name not in ("fastrpn", "cuda")
    )
    commands = [f"git checkout {part['commit']}"] if part.get("commit") else []
    commands += [f"pip install {releases}", "pip install '.[bench]'"]
    if is_cpu:
        commands.append("benchmarks/run_cpu.sh --output RESULTS")
        shown = "RESULTS/results.json"
    else:
        commands.append("OUT=RESULTS benchmarks/run_cuda.sh test bench sweep model profile")
        shown = "RESULTS/<gpu>.json"
    commands.append(f"python -m benchmarks.html_report {shown} --output report.html")
    text = (
        "In a clone of the project, on a machine with nothing else to do. A shared machine only "
        "adds time: then repeat, and compare ratios to a peer of the same run.\n\n"
        "```\n" + "\n".join(commands) + "\n```\n\n"
        "Two files are compared by `python -m benchmarks.html_report OLD.json NEW.json`."
    )
    return Section("How to reproduce", text)


def html(paths: list[Path]) -> str:
    """The page of one result file, or of two: the older one, then the one that is shown."""
    files = {str(path): load(path) for path in paths}
    shown = files[str(paths[-1])]
    sections = [environment_section(files)]
    if len(files) == 2:
        sections = [*comparison_report.sections(*files.items()), *sections]
    if "measurements" in shown:
        sections += cpu_sections(paths[-1], shown)
    else:
        sections += gpu_sections(shown)
    part = next(iter(parts_of(shown).values()))
    machine = part.get("gpu") or f"{part['cpu']}, {part['threads']} threads"
    title = f"fastrpn {part['versions']['fastrpn']} on {machine}"
    return page(title, [*sections, reproduction(shown)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json", help="one or two")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    options = parser.parse_args(arguments)
    if len(options.results) > 2:
        parser.error("one file is shown, or two are compared")
    options.output.write_text(html(options.results))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
