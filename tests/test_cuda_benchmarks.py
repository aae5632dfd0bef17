"""What the GPU benchmarks write and report, as far as it needs no GPU."""

import json

import pytest
import torch

pytest.importorskip("torchvision")

from benchmarks import cuda_report, cuda_results  # noqa: E402
from benchmarks.cuda_ops import as_dict  # noqa: E402
from benchmarks.cuda_profile import limits_in  # noqa: E402
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
