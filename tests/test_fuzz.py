"""The fuzzer: it runs for a while on the seed of the day, and it finds faults that are planted."""

import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastrpn import ops
from fastrpn.ops import reference
from tests.fuzz import cases
from tests.fuzz.run import Report, run_here, still_runs
from tests.fuzz.trial import Trial, difference, equal_bits, within

ROOT = Path(__file__).resolve().parents[1]
MINUTES = os.environ.get("FASTRPN_FUZZ_MINUTES", "0.3")


def fuzz(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_nothing_is_found_today(capsys):
    done = fuzz("--minutes", MINUTES)
    with capsys.disabled():  # the seed belongs in the log, found or not
        print(f"\n{done.stdout.splitlines()[0] if done.stdout else done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ all +[1-9]", done.stdout, re.MULTILINE), done.stdout


def findings(op: str, number_of_cases: int) -> list[cases.Finding]:
    """What the first cases of an operator come to, in this process."""
    total, left = Report(), iter(range(number_of_cases))
    run_here([op], 1, lambda: next(left, None) is None, total.add)
    return total.findings


def no_strict_comparison(boxes, scores, iou_threshold):
    order = torch.sort(scores, descending=True, stable=True).indices
    kept = []
    iou = reference.box_iou(boxes, boxes)
    for i in order.tolist():
        if not any(iou[i, k].double() >= iou_threshold for k in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def unstable_sort(boxes, scores, iou_threshold):
    return len(scores) - 1 - reference.nms(boxes.flip(0), scores.flip(0), iou_threshold)


def last_row_forgotten(boxes1, boxes2):
    iou = reference.box_iou(boxes1, boxes2)
    if len(iou) % 8 == 7:  # the tail of a vector
        iou[-1] = 0
    return iou


def strides_ignored(boxes1, boxes2):
    flat = torch.as_strided(boxes1, boxes1.shape, (4, 1)) if boxes1.numel() else boxes1
    return reference.box_iou(flat, boxes2)


def nan_wins(input, boxes, output_size, spatial_scale):
    return real["roi_pool"](input.nan_to_num(nan=1e4), boxes, output_size, spatial_scale)


def a_sample_off_by_half(input, boxes, *arguments, **options):
    return real["roi_align"](input, boxes + 0.5, *arguments, **options)


def later_ground_truth_wins(anchors, gt_boxes, gt_counts, **options):
    labels, max_iou = real["match_anchors"](anchors, gt_boxes.flip(1), gt_counts, **options)
    swapped = torch.where(labels >= 0, gt_boxes.shape[1] - 1 - labels, labels)
    return (swapped, max_iou) if (gt_counts == gt_boxes.shape[1]).all() else (labels, max_iou)


def clipped_before_the_size_is_tested(*tensors, min_size, **options):
    return real["generate_proposals"](*tensors, min_size=min_size * 1.5 + 0.5, **options)


def threshold_rounded(boxes, scores, **options):
    options["iou_threshold"] = torch.tensor(options["iou_threshold"]).half().item()
    return real["soft_nms"](boxes, scores, **options)


real = {name: getattr(ops, name) for name in ops.__all__}
FAULTS = [
    ("nms", no_strict_comparison),
    ("nms", unstable_sort),
    ("box_iou", last_row_forgotten),
    ("box_iou", strides_ignored),
    ("roi_pool", nan_wins),
    ("roi_align", a_sample_off_by_half),
    ("match_anchors", later_ground_truth_wins),
    ("generate_proposals", clipped_before_the_size_is_tested),
    ("soft_nms", threshold_rounded),
]


@pytest.mark.parametrize(("op", "fault"), FAULTS, ids=[fault.__name__ for _, fault in FAULTS])
def test_a_planted_fault_is_found_shrunk_and_replayed(op, fault, monkeypatch):
    assert not findings(op, 60)
    monkeypatch.setattr(ops, op, fault)
    found = findings(op, 600)
    assert found
    for finding in found:
        assert finding.case.split(":")[0] == op and finding.message
        assert cases.run_case(finding.case).finding == finding


@pytest.mark.parametrize(
    ("target", "argument", "since", "words"),
    [(os._exit, 3, time.time(), "exit code 3"), (time.sleep, 600, 0.0, "no end")],
    ids=["dies", "hangs"],
)
def test_a_process_that_dies_or_hangs_is_a_finding(target, argument, since, words):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=(argument,), daemon=True)
    current, start, total = context.Array("c", 200), context.Value("d", since), Report()
    current.value = b"nms:1:2"
    process.start()
    if target is os._exit:
        process.join()
    assert not still_runs(process, current, start, total)
    assert [finding.case for finding in total.findings] == ["nms:1:2"]
    assert words in total.findings[0].message
    assert not process.is_alive()


def test_comparisons():
    nan, inf = torch.nan, torch.inf
    a = torch.tensor([0.0, nan, inf, 1.0])
    assert not difference(a, a.clone()) and not equal_bits(a, a.clone())
    assert not difference(a, torch.tensor([-0.0, nan, inf, 1.0]))
    assert equal_bits(a, torch.tensor([-0.0, nan, inf, 1.0]))
    assert difference(a, torch.tensor([0.0, 1.0, inf, 1.0]))
    assert difference(a, a.double()) and difference(a, a[:3]) and difference((a,), (a, a))
    close = within(1e-3, 0)
    assert not close(a, torch.tensor([0.0, nan, inf, 1.0005]))
    assert close(a, torch.tensor([0.0, nan, inf, 1.002])) and close(a, torch.tensor([nan] * 4))


def test_other_layouts_hold_the_same_numbers():
    trial = Trial("nms:1:1")
    for shape in ((0, 4), (7, 4), (3, 2, 4), (2, 3, 4, 5), (5,)):
        tensor = trial.randn(*shape)
        layouts = [trial.restrided(tensor) for _ in range(40)]
        assert all(torch.equal(tensor, other) for other in layouts)
        assert len({(x.stride(), x.storage_offset()) for x in layouts}) > 2


def test_the_command_line():
    done = fuzz("--replay", "nms:1:2")
    assert done.returncode == 0 and "nothing found" in done.stdout
    done = fuzz("--op", "nsm")
    assert done.returncode == 2 and "expected one of nms" in done.stderr
