"""The benchmarks run, on tiny inputs: their own equality checks are the assertions."""

import contextlib
import json
import time

import numpy as np
import pytest

pytest.importorskip("torchvision")

from benchmarks import plots, report, scan, soft_nms, targets, timing  # noqa: E402
from fastrpn import __version__  # noqa: E402

ENVIRONMENT = {
    "versions": {"fastrpn": __version__, "torchvision": "0"},
    "cpu": "a CPU",
    "threads": 2,
    "simd_level": "generic",
}


def row(op: str, work: str, **milliseconds: float) -> dict:
    return timing.Measurement(op, work, 1, milliseconds, {}).as_dict()


def test_a_different_result_is_refused():
    with pytest.raises(AssertionError, match="peer differs"):
        timing.measure(
            "op", "work", 1, {"fastrpn": lambda: 1, "peer": lambda: 2}, equal=int.__eq__, seconds=0
        )


def test_a_slow_candidate_runs_once():
    calls = []
    candidates = {"fastrpn": lambda: 1, "peer": lambda: calls.append(0) or 1}
    found = timing.measure("op", "w", 1, candidates, equal=int.__eq__, seconds=0, repeat_below=0)
    assert len(calls) == 1
    assert found.notes["one run"] == ["fastrpn", "peer"]


def test_a_context_is_entered_before_the_clock_starts():
    inside = []

    @contextlib.contextmanager
    def slow_context():
        time.sleep(0.02)
        inside.append(True)
        yield
        inside.pop()

    candidates = {"fastrpn": lambda: len(inside), "peer": lambda: 1 - len(inside)}
    found = timing.measure(
        "op", "w", 1, candidates, equal=int.__eq__, seconds=0, contexts={"fastrpn": slow_context}
    )
    assert found.milliseconds["fastrpn"] < 15


def test_extra_memory_counts_what_a_call_touches():
    assert 30 < timing.extra_megabytes(lambda: np.ones(4_000_000)) < 60
    assert timing.extra_megabytes(lambda: None) < 5


def test_scans_find_slopes_regimes_and_draw_them(tmp_path):
    growth = [scan.run_scan(one, seconds=0) for one in scan.scans(30)]
    assert all(len(found["milliseconds"]["fastrpn"]) >= 2 for found in growth)
    rows = list(scan.regimes((10, 40), (0.3, 0.7), seconds=0))
    assert len(rows) == 2 * len(scan.REGIMES) * 2 * 2
    path = tmp_path / "scan.json"
    measured = {"growth": growth, "regimes": [row.as_dict() for row in rows]}
    path.write_text(json.dumps(ENVIRONMENT | measured))
    assert all(picture.stat().st_size > 5_000 for picture in plots.draw_scan(path))


def test_slopes_are_those_of_the_upper_end():
    points = [(10**e, 0.05 if e < 2 else 0.2 * 10 ** (2 * (e - 2))) for e in range(6)]
    assert scan.fitted_slope(points) == 2
    assert scan.fitted_slope(points[:3]) is None
    assert scan.predicted_seconds([(10, 1000.0), (100, 10_000.0)], 1000) == pytest.approx(100)


def test_soft_nms_agrees_with_opencv():
    assert soft_nms.row(60, "gaussian", seconds=0).milliseconds["fastrpn"] > 0


def test_the_report_says_what_was_reached(tmp_path):
    measurements = [
        row("nms", "300 rpn @0.7", fastrpn=1.0, torchvision=10.0, opencv=0.5),
        row("nms", "2,000 rpn @0.7", fastrpn=1.0, torchvision=10.0),
        row("nms", "1,000,000 dense @0.5", fastrpn=250.0),
        row("drop_in", "a detector", fastrpn=100.0, torchvision=250.0),
    ]
    results = ENVIRONMENT | {"measurements": measurements}
    (tmp_path / "results.json").write_text(json.dumps(results))
    growth = {
        "title": "nms",
        "milliseconds": {"fastrpn": [[10, 1.0], [100, 10.0]]},
        "slopes": {"fastrpn": 1.0, "fill": None},
    }
    found = {"growth": [growth], "regimes": [{}, {}], "slower than torchvision": ["one: 0.9x"]}
    (tmp_path / "scan.json").write_text(json.dumps(found))
    document = tmp_path / "document.md"
    document.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.write(tmp_path, document)
    text = document.read_text()
    assert text.startswith("above") and text.endswith("below\n") and "old" not in text
    assert "| nms | 300 rpn @0.7 | × torchvision | 8 | 12 | 10 | must |" in text
    assert "| nms | 2,000 rpn @0.7 | × torchvision | 45 | 80 | 10 | **below** |" in text
    assert "| nms | 1,000,000 dense @0.5 | ms | 1,000 | 300 | 250 | aim |" in text
    assert "not measured" in text
    assert "| a detector | 250 | 100 | 2.50× |" in text
    assert "| nms | 300 rpn @0.7 | opencv | 0.5 | 1 |" in text
    assert "| nms | 1 | 100: 10 ms |" in text
    assert "slower than torchvision: one: 0.9x." in text


def test_every_target_names_a_row_that_is_measured():
    """A renamed work would silently drop out of the table."""
    from benchmarks import box_iou, nms

    works = {f"{n:,} {nms.name_of(make)} @{threshold}" for make, n, threshold in nms.ROWS}
    works |= {f"{n:,} x {m:,}" for n, m in box_iou.SIZES}
    for target in targets.TARGETS:
        if target.op in ("nms", "box_iou"):
            assert target.work in works, target
