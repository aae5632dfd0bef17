"""The benchmarks run, on tiny inputs: their own equality checks are the assertions."""

import contextlib
import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from benchmarks import (  # noqa: E402
    environment,
    growth,
    inputs,
    padded_inputs,
    profile_cpu,
    report,
    run_all,
    scan,
    soft_nms,
    targets,
    timing,
)
from fastrpn import __version__  # noqa: E402

ENVIRONMENT = {
    "versions": {"fastrpn": __version__, "torchvision": "0"},
    "cpu": "a CPU",
    "threads": 2,
    "simd_level": "generic",
}

TINY = {  # module, constant: value
    ("nms", "ROWS"): [(inputs.rpn_boxes, 10, 0.7), (inputs.dense_boxes, 60, 0.5)],
    ("nms", "PADDED"): 400,
    ("nms", "BATCHED"): [(10, 2), (60, 5)],
    ("soft_nms", "SIZES"): (10, 30),
    ("box_iou", "SIZES"): [(10, 10), (40, 20)],
    ("profile_cpu", "IOU_SIZES"): [(40, 20)],
    ("match_anchors", "C5_LEVEL"): [(12, 12, 64, [128])],
    ("match_anchors", "FPN_LEVELS"): [(12, 12, 64, [64]), (6, 6, 128, [256])],
    ("match_anchors", "SIDE"): 20,
    ("match_anchors", "OBJECTS"): 5,
    ("generate_proposals", "CASES"): [("small", [(6, 8, 16, [32, 64])], 2, 50, 20)],
    ("rois", "COUNTS"): (3, 4, 5),
    ("rois", "CHANNELS"): 8,
    ("roi_align", "IMAGE"): (96, 128),
    ("roi_align", "PYRAMIDS"): [(5, 7), (3, 14)],
    ("drop_in", "QUICK_IMAGE"): (64, 96),
    ("drop_in", "CANDIDATES_A_CLASS"): 1,
    ("padded_inputs", "BOXES"): 300,
    ("padded_inputs", "WANTED"): (10, 50),
    ("timing", "REPEATS"): 0,
}


@pytest.fixture
def tiny(monkeypatch):
    """Inputs that take milliseconds."""
    for (module, name), value in TINY.items():
        monkeypatch.setattr(importlib.import_module(f"benchmarks.{module}"), name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


def test_a_noisy_series_is_taken_again_and_the_calmest_counts():
    series = iter([[1.0, 2.0, 3.0], [1.0, 1.0, 1.1], [0.0, 0.0, 0.0]])
    times, again = timing.calmest(lambda: {"fastrpn": next(series)}, ["fastrpn", "torchvision"])
    assert times == {"fastrpn": [1.0, 1.0, 1.1]} and again == 1
    assert timing.summary([1.0, 2.0, 3.0]) == (2000.0, 0.5)
    assert timing.summary([2.0]) == (2000.0, 0.0)


def test_limits_are_not_compared_and_other_results_are_named():
    candidates = {"fastrpn": lambda: 1, "torchvision": lambda: 1, "x": lambda: 2, "fill": lambda: 3}
    found = timing.measure(
        "op", "w", 1, candidates, equal=int.__eq__, seconds=0, exact=("torchvision",),
        alike=int.__eq__,
    )  # fmt: skip
    assert found.notes["other results"] == ["x"]
    assert set(found.milliseconds) == set(candidates)


def test_the_environment_names_the_cpu(tmp_path):
    assert json.dumps(environment.environment())
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : AMD EPYC\ncpu family : 26\nmodel : 2\n")
    assert environment.cpu_name(cpuinfo) == "AMD EPYC (family 26, model 2)"
    cpuinfo.write_text("model name : AMD EPYC 9755\ncpu family : 26\nmodel : 2\n")
    assert environment.cpu_name(cpuinfo) == "AMD EPYC 9755"
    assert environment.cpu_name(Path("/nowhere"))


def test_everything_runs_and_is_reported(tiny, tmp_path, monkeypatch):
    """run_all, the scan, the profile and the table of nms_padded, up to the summary."""
    monkeypatch.setattr(scan, "THRESHOLDS", (0.3, 0.7))
    output = ["--output", str(tmp_path)]
    run_all.main(["--quick", *output])
    scan.main(["--quick", "--largest", "30", *output])
    padded_inputs.main(["--seconds", "0", *output])
    profile_cpu.main(["--seconds", "0", *output])

    results = json.loads((tmp_path / "results.json").read_text())
    measured = {m["op"] for m in results["measurements"]}
    assert measured >= set(run_all.OPS) | {"batched_nms", "nms_padded", "MultiScaleRoIAlign"}
    assert all(m["notes"]["share of fill speed"] for m in results["measurements"]
               if m["op"] == "box_iou")  # fmt: skip
    found = json.loads((tmp_path / "scan.json").read_text())
    assert len(found["regimes"]) == 2 * len(scan.REGIMES) * 2 * 1
    assert {m["notes"]["threads"] for m in found["other regimes"]} == {1, 2}
    profiled = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert {r["op"] for r in profiled} >= set(run_all.OPS) - {"drop_in"}
    assert all(r["GB/s"] > 0 and r["ns a unit"] > 0 for r in profiled)
    assert len(list(tmp_path.glob("*.png"))) == 6
    assert all(picture.stat().st_size > 5_000 for picture in tmp_path.glob("*.png"))
    text = report.markdown(tmp_path)
    assert "not measured" in text and "rank of the 50th" in text and "roi_pool with" in text


def test_every_scan_says_what_it_predicts():
    for one in growth.nms_scans([10]) + growth.other_scans(1_000):
        assert one.predicted >= 1 and one.why


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
    growing = {
        "title": "nms, dense",
        "milliseconds": {"fastrpn": [[10, 1.0], [100, 10.0]]},
        "slopes": {"fastrpn": 1.4, "fill": None},
        "predicted": 1.0,
        "why": "of the caches",
    }
    growing["milliseconds"]["lsnms"] = [[10, 0.5], [100, 9.0]]
    found = {"growth": [growing], "regimes": [{}, {}], "slower than torchvision": ["one: 0.9x"]}
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
    assert "| nms | 300 rpn @0.7 |  | opencv | 0.5 | 1 |" in text
    assert "| nms | dense | 10, 100 | lsnms | 0.5 | 1 |" in text
    assert "| nms, dense | 1 | 1.4 | 100: 10 ms |" in text
    assert "- nms, dense: 1.4 instead of 1; of the caches." in text
    assert "slower than torchvision: one: 0.9x." in text


def test_every_target_names_a_row_that_is_measured():
    """A renamed work would silently drop out of the table."""
    from benchmarks import box_iou, nms

    works = {f"{n:,} {nms.name_of(make)} @{threshold}" for make, n, threshold in nms.ROWS}
    works |= {f"{n:,} x {m:,}" for n, m in box_iou.SIZES}
    for target in targets.TARGETS:
        if target.op in ("nms", "box_iou"):
            assert target.work in works, target
