"""Classic mistakes, planted in copies of the kernels of nms: the harness catches each of them."""

import pytest
import torch

from . import harness
from .test_nms import random_scene, same_code

# name: (file, original, mistake, what the harness says)
FAULTS = {
    "barrier_after_staging": (
        "chunk_cuda.h",
        "  }\n  __syncthreads();\n\n  const int column",
        "  }\n\n  const int column",
        "depends on the order of threads",
    ),
    "barrier_after_a_decision": (
        "chunk_cuda.h",
        "    __syncthreads();\n    return (tile + 1) * kTileBoxes < present",
        "    return (tile + 1) * kTileBoxes < present",
        "depends on the order of threads|AddressSanitizer|deadlock|different places",
    ),
    "shared_memory_off_by_one": (
        "chunk_cuda.h",
        "__shared__ bool open[kTileBoxes];",
        "__shared__ bool open[kTileBoxes - 1];",
        "out of bounds|insufficient space|buffer-overflow",
    ),
    "output_off_by_one": (
        "chunk_cuda.h",
        "rank < room",
        "rank <= room",
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

# The same of the kernels that only more than 4,096 boxes with groups need.
FAULTS_OF_SEGMENTS = {
    "barrier_after_staging_a_tile": (
        "segment_cuda.h",
        "    __syncthreads();  // the tile is staged\n",
        "",
        "depends on the order of threads|differs from the CPU kernel's",
    ),
    "barrier_after_finding_the_places": (
        "segment_cuda.h",
        "  __syncthreads();  // the places are written\n",
        "",
        "depends on the order of threads|AddressSanitizer|differs from the CPU kernel's",
    ),
    "a_group_of_another_code_alone": (
        "tile_cuda.h",
        "groups[row] == group && test(",
        "test(",
        "differs from the CPU kernel's",
    ),
    "a_segment_without_its_last_box": (
        "segment_cuda.h",
        "const bool exists = first + column < size;",
        "const bool exists = first + column < size - 1;",
        "differs from the CPU kernel's",
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


@pytest.mark.parametrize("fault", FAULTS_OF_SEGMENTS)
def test_a_planted_fault_of_segments_is_caught(fault):
    file, original, mutated, message = FAULTS_OF_SEGMENTS[fault]
    mutant = harness.build_mutant("nms", file, original, mutated, fault)
    boxes, scores = random_scene(1, 4100, seed=0)
    inputs = {"boxes": boxes, "scores": scores, "iou_threshold": 0.5, "max_output": 4100}
    groups = torch.cat([same_code(3), torch.tensor([5])])[torch.arange(4100) % 4]
    inputs |= {"counts": torch.tensor([300]), "groups": groups[None]}
    harness.run("nms", **inputs)
    with pytest.raises(harness.HarnessError, match=message):
        harness.run(mutant, seeds=4, **inputs)
