"""The benchmarks' report in one HTML file, and the comparison of two result files."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("markdown_it")

from benchmarks import compare, comparison_report, html_report, page

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
CPU = RESULTS / "cpu" / "results.json"
AVX2 = RESULTS / "cpu-avx2" / "results.json"
H100 = RESULTS / "nvidia-h100-80gb-hbm3.json"
WORK = ("nms", "12,000 rpn @0.7")
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """What a browser would load, the anchors, the cells, and whether elements are nested well."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.cells, self.tags = [], [], set(), [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.addresses += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        self.ids.add(found.get("id"))
        if tag == "td":
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def written(tmp_path, *paths):
    output = tmp_path / "report.html"
    html_report.main([*map(str, paths), "--output", str(output)])
    return output.read_text()


def saved(tmp_path, name, results):
    path = tmp_path / name
    path.write_text(json.dumps(results))
    return path


def slowed(results, factor, names=("fastrpn",), work=WORK):
    """A copy in which some libraries took longer on one work."""
    results = copy.deepcopy(results)
    (row,) = [m for m in results["measurements"] if (m["op"], m["work"]) == work]
    for name in names:
        row["milliseconds"][name] *= factor
    return results


@pytest.fixture(scope="module")
def results():
    return json.loads(CPU.read_text())


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The committed files as pages: a GPU's, and a CPU's compared with another one's."""
    folder = tmp_path_factory.mktemp("pages")
    return {CPU: written(folder, AVX2, CPU), H100: written(folder, H100)}


@pytest.mark.parametrize("path", [CPU, H100], ids=["cpu", "gpu"])
def test_every_row_of_a_real_file_is_in_the_page(path, pages):
    text = pages[path]
    found = Page(text)
    parts = compare.parts_of(json.loads(path.read_text())).values()
    works = {m["work"] for part in parts for m in part["measurements"]}
    assert len(works) > 20 and works <= set(found.cells)
    assert found.tags.count("svg") >= len(parts)
    assert "pip install torch==" in text and "fastrpn 0.1.0 on" in text


@pytest.mark.parametrize("path", [CPU, H100], ids=["cpu", "gpu"])
def test_the_page_loads_nothing_from_elsewhere(path, pages):
    text = pages[path]
    found = Page(text)
    images = {a for a in found.addresses if a.startswith("data:image/png;base64,")}
    links = set(found.addresses) - images
    assert len(links) > 10  # within the page, and markers of the pictures
    assert {address[0] for address in links} == {"#"}
    assert {address[1:] for address in links} <= found.ids
    assert not re.search(r"@import|url\((?!#)", text)
    assert "script" not in found.tags and "link" not in found.tags


def test_a_regression_is_pointed_at_and_noise_is_not(results):
    before, noisy = slowed(results, 1), slowed(results, 1.05)
    assert {change.verdict for change in compare.compare(before, noisy)} == {"same"}
    changes = compare.compare(before, slowed(results, 2))
    slower = [change for change in changes if change.verdict != "same"]
    assert [(change.op, change.work, change.verdict) for change in slower] == [(*WORK, "slower")]
    assert slower[0].factor == pytest.approx(0.5) and changes[0] is slower[0]
    (faster,) = (c for c in compare.compare(before, slowed(results, 0.5)) if c.verdict != "same")
    assert faster.verdict == "faster"


def test_the_regression_stands_in_the_page(results, tmp_path):
    text = written(tmp_path, CPU, saved(tmp_path, "new.json", slowed(results, 2)))
    section = text.split('<section id="comparison">')[1].split("</section>")[0]
    assert "Regressions: 1 of 65" in section and "Faster: 0 of 65" in section
    assert Page(section).cells[:4] == [*WORK, "0.50×", "12%"]
    calm = comparison_report.sections(("old", results), ("new", slowed(results, 1.05)))
    assert "None: no row became slower" in calm[0].text


def test_a_slower_machine_is_no_regression(results):
    both = slowed(results, 2, ("fastrpn", "torchvision"))
    assert {change.verdict for change in compare.compare(results, both)} == {"same"}


def test_a_change_within_a_wide_spread_is_none(results):
    wide = slowed(results, 2)
    for m in wide["measurements"]:
        m["spread"] = dict.fromkeys(m["spread"], 1.2)
    assert {change.verdict for change in compare.compare(results, wide)} == {"same"}


def test_the_fastest_runs_must_say_so_too(results):
    before, after = slowed(results, 1), slowed(results, 2)
    for results_of, ours in ((before, 1.0), (after, 1.05)):
        for m in results_of["measurements"]:
            m["minima"] = {name: ours if name == "fastrpn" else 9.0 for name in m["milliseconds"]}
    assert {change.verdict for change in compare.compare(before, after)} == {"same"}
    for m in after["measurements"]:
        m["minima"]["fastrpn"] = 2.0
    verdicts = [change.verdict for change in compare.compare(before, after)]
    assert verdicts.count("slower") == 1


def test_other_machines_and_releases_are_named(tmp_path):
    text = written(tmp_path, AVX2, H100)
    assert "The machines differ" in text and "torch 2.15.0 → 2.11.0+cu130" in text
    assert f"Only in {AVX2}: " in text
    changes = compare.compare(*(json.loads(path.read_text()) for path in (AVX2, CPU)))
    assert changes and all(change.peer for change in changes)


def test_variants_meet_the_peer_of_their_type():
    results = json.loads(H100.read_text())
    peers = {change.name: change.peer for change in compare.compare(results, results)}
    assert peers["fastrpn float16"] == "torchvision float16"
    assert peers["fastrpn NCHW"] == peers["fastrpn"] == "torchvision"


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"measurements": []}', '{"ops": {}}', '{"ops": 3}', None]
)
def test_a_bad_file_is_named(content, tmp_path):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match=re.escape(str(path))):
        written(tmp_path, CPU, path)


def test_markup_in_a_file_stays_text(results, tmp_path):
    strange = slowed(results, 1)
    strange["cpu"] = strange["measurements"][0]["work"] = "<script>alert(1)</script>"
    text = written(tmp_path, saved(tmp_path, "strange.json", strange))
    assert "<script" not in text and text.count("&lt;script&gt;") + text.count("&lt;script>") >= 2


def test_only_columns_of_numbers_are_aligned():
    text = page.html_of("| a | b |\n|---|---|\n| 1.5 ± 3% | 1 |\n| – | x |\n|  | **below** |\n")
    assert text.count('class="number"') == 4  # the heading and three cells
    assert '<td class="bad"><strong>below</strong></td>' in text
