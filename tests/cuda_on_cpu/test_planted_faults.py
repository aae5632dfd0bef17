"""Classic mistakes, planted in copies of the kernels of nms: the harness catches each of them."""

import pytest

from . import harness
from .test_nms import random_scene

# name: (file, original, mistake, what the harness says)
FAULTS = {
    "barrier_after_staging": (
        "chunk_cuda.h",
        "  }\n  __syncthreads();\n\n  const int column",
        "  }\n\n  const int column",
        "depends on the order of threads",
    ),
    "barrier_before_the_output": (
        "chunk_cuda.h",
        "  __syncthreads();\n  for (int box = thread; box < present",
        "  for (int box = thread; box < present",
        "depends on the order of threads|AddressSanitizer",
    ),
    "shared_memory_off_by_one": (
        "chunk_cuda.h",
        "__shared__ Candidate<C> tile_boxes[kTileBoxes];",
        "__shared__ Candidate<C> tile_boxes[kTileBoxes - 1];",
        "out of bounds|insufficient space|buffer-overflow",
    ),
    "output_off_by_one": (
        "chunk_cuda.h",
        "rank >= num_kept",
        "rank > num_kept",
        "heap-buffer-overflow|unknown-crash|use-after-poison",
    ),
    "overrun_within_the_workspace": (
        "workspace_cuda.h",
        "w.summaries = cursor.take<unsigned long long>(total);",
        "w.summaries = cursor.take<unsigned long long>(total - 1);",
        "use-after-poison",
    ),
    "early_return_before_a_shuffle": (
        "order_cuda.h",
        "  for (int step = 1; step < kThreadsPerRow; step *= 2) {",
        "  if (row >= n) return;\n  for (int step = 1; step < kThreadsPerRow; step *= 2) {",
        "returned",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault):
    file, original, mutated, message = FAULTS[fault]
    mutant = harness.build_mutant("nms", file, original, mutated, fault)
    boxes, scores = random_scene(1, 150, seed=0)
    max_output = 20 if fault == "output_off_by_one" else 150
    inputs = {"boxes": boxes, "scores": scores, "iou_threshold": 0.5, "max_output": max_output}
    harness.run("nms", seeds=4, **inputs)
    with pytest.raises(harness.HarnessError, match=message):
        harness.run(mutant, seeds=4, **inputs)
