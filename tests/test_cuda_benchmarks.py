"""What the GPU benchmarks write and report, as far as it needs no GPU."""

import json

import pytest
import torch

pytest.importorskip("torchvision")

from benchmarks import (  # noqa: E402
    cuda_cases,
    cuda_model,
    cuda_predictions,
    cuda_report,
    cuda_results,
)
from benchmarks.cuda_ops import as_dict  # noqa: E402
from benchmarks.cuda_profile import limits_in  # noqa: E402
from benchmarks.cuda_sweep import __main__ as sweep  # noqa: E402
from benchmarks.cuda_sweep import cases, constants, library  # noqa: E402
from benchmarks.cuda_sweep.library import harness  # noqa: E402
from benchmarks.cuda_sweep.report import lines_of  # noqa: E402
from benchmarks.cuda_timing import Case, Timer, is_close  # noqa: E402


def copy_of(x):
    return lambda: x.clone()


def out_of_memory(x):
    raise torch.cuda.OutOfMemoryError("no")


TARGETS = {"× torchvision": (3, 6), "of fill": (0.8, None), "of torchvision's memory": (0.05, None)}


@pytest.mark.parametrize("missing", ["none", "peer", "ours", "theirs"])
def test_a_report_of_rows_that_lack_a_library(missing, tmp_path):
    libraries = {"fastrpn": copy_of, "torchvision": copy_of, "torchvision deterministic": copy_of}
    if missing == "peer":
        del libraries["torchvision"]
    elif missing != "none":
        libraries["fastrpn" if missing == "ours" else "torchvision"] = out_of_memory
    case = Case("op", "work", 1, lambda: [torch.zeros(9)], libraries, TARGETS, bound="fill")
    results = cuda_results.environment(True) | {"bytes_per_second": {"fill": 1e9}}
    results["measurements"] = [as_dict(Timer("cpu").measure(case))]
    file = tmp_path / "gpu.json"
    cuda_results.save(file, "model", results)
    cuda_results.save(file, "ops", results)
    assert json.loads(file.read_text()).keys() == {"ops", "model"}
    cuda_report.main(file)
    assert (tmp_path / "gpu_ops.png").exists() == (missing == "none")
    summary = (tmp_path / "gpu.md").read_text()
    assert ("out of memory" in summary) == (missing in ("ours", "theirs"))


def test_results_are_compared_in_shape_and_value():
    x = torch.arange(6.0).reshape(2, 3)
    assert is_close((x, x[0]), [x + 1e-5, x[0]])
    assert not is_close(x, x + 1)
    assert not is_close(x, x.T)


def test_the_limit_that_ncu_names(tmp_path):
    header = '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"'
    values = {"Memory Throughput": ("%", "91.5"), "Compute (SM) Throughput": ("%", "40.2")}
    rows = [f'"0","fill(int)","SOL","{k}","{u}","{v}"' for k, (u, v) in values.items()]
    rows.append('"0","fill(int)","Memory","Memory Throughput","byte/s","1,000"')
    log = tmp_path / "ncu.csv"
    log.write_text("\n".join(["==PROF== Connected", header, *rows]))
    limits = limits_in(log)
    assert limits == {"fill(int)": {"Memory Throughput": 91.5, "Compute (SM) Throughput": 40.2}}
    assert cuda_report.limit_rows(limits) == [["`fill(int)`", "40%", "92%", "Memory Throughput"]]


def test_every_row_has_a_prediction_and_no_prediction_lacks_a_row():
    parts = (*cuda_cases.ALL, *cuda_model.ALL)
    rows = {
        (case.op, case.work): {name for name in case.libraries if name.startswith("fastrpn")}
        for cases in parts
        for case in cases(False)
    }
    assert rows == {row: set(of) for row, of in cuda_predictions.PREDICTED.items()}
    assert all(value > 0 for of in cuda_predictions.PREDICTED.values() for value in of.values())


def test_a_prediction_stands_beside_the_measured_time():
    row = {"op": "nms", "work": "300 RPN-like @0.7", "milliseconds": {"fastrpn": 0.09}}
    notes = {"peak_bytes": {}, "out_of_memory": [], "bound": "copy", "limit_milliseconds": 0.01}
    cells = cuda_report.cells(
        row | {"spread": {"fastrpn": 0.1}, "notes": notes}, *["fastrpn"] * 2, ""
    )
    found = dict(zip(cuda_report.COLUMNS, cells, strict=True))
    assert found["predicted, µs"] == "45" and found["measured of it"] == "2.00"


def instance(constant, values, milliseconds, spread=0.01):
    return {"constant": constant, "chosen": ["8"] if constant else [], "values": values,
            "milliseconds": milliseconds, "spread": spread}  # fmt: skip


@pytest.mark.parametrize(
    "milliseconds, spread, verdict",
    [(0.5, 0.01, "**16**"), (0.99, 0.001, "stays"), (0.9, 0.3, "stays"), (1.2, 0.01, "stays")],
)
def test_a_value_wins_by_more_than_the_spread(milliseconds, spread, verdict):
    found = [instance(None, [], 1.0), instance("k", ["16"], milliseconds, spread)]
    (line,) = lines_of({"op": "op", "work": "work", "instances": found})
    assert line[2] == "k" and line[-1] == verdict
    assert line[3] == "8: 1000.0 ± 5.0"


def test_the_sources_hold_the_chosen_constants():
    """And each value to try makes other sources."""
    everything = constants.instances()
    assert len({(i.op, *i.sources().items()) for i in everything}) == len(everything)
    assert len({instance.name for instance in everything}) == len(everything)


def test_a_constant_that_the_sources_no_longer_hold_is_reported():
    line = "constexpr int kGone = {};"
    gone = constants.of_one("nms", "k", "ops/nms/chunk_cuda.h", line, "1", "2")
    with pytest.raises(ValueError, match=r"kGone = 1;' occurs 0 times"):
        constants.Instance("nms", gone, ("2",)).sources()


@pytest.mark.skipif(harness.why_unavailable() is not None, reason=str(harness.why_unavailable()))
def test_an_instance_runs_on_the_cpu_and_a_wrong_one_is_noticed():
    everything = [i for i in constants.instances(is_dry=True) if i.op == "box_iou"]
    libraries = {i: library.Library(path) for i, path in library.build(everything, True).items()}
    (case,) = cases.box_iou_cases(is_dry=True)
    row = sweep.row_of(case, libraries, Timer("cpu"))
    assert [x["values"] for x in row["instances"]] == [list(i.values) for i in everything]
    wrong = {"iou": case.expected(case.inputs)["iou"] + 1e-6}
    libraries[everything[0]].give(case.inputs)
    with pytest.raises(AssertionError, match="iou differs from fastrpn's"):
        sweep.check(libraries[everything[0]], wrong, everything[0], case)
    del case.inputs["boxes2"]
    libraries[everything[1]].give(case.inputs)
    with pytest.raises(RuntimeError, match="no input is named boxes2"):
        libraries[everything[1]].run()
