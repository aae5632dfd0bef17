"""Three classic mistakes, planted in copies of nms_cuda.cu: the harness catches each of them."""

import pytest

from . import harness
from .test_nms import random_scene

FAULTS = {
    "removed_barrier": (
        "tile_groups[threadIdx.x] = groups == nullptr ? 0 : groups[first_column + threadIdx.x];\n"
        "  }\n"
        "  __syncthreads();\n",
        "tile_groups[threadIdx.x] = groups == nullptr ? 0 : groups[first_column + threadIdx.x];\n"
        "  }\n",
        "depends on the order of threads",
    ),
    "shared_memory_off_by_one": (
        "__shared__ Candidate<C> tile_boxes[kTile];",
        "__shared__ Candidate<C> tile_boxes[kTile - 1];",
        "out of bounds|insufficient space|buffer-overflow",
    ),
    "wrong_ballot_mask": (
        "__ballot_sync(kAllLanes, is_kept(low))",
        "__ballot_sync(0x7fffffffu, is_kept(low))",
        "lane 31 calls with the mask 7fffffff, which lacks it|deadlock",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault):
    original, mutated, message = FAULTS[fault]
    mutant = harness.build_mutant("nms", original, mutated, fault)
    boxes, scores = random_scene(1, 150, seed=0)
    inputs = {"boxes": boxes, "scores": scores, "iou_threshold": 0.5, "max_output": 150}
    harness.run("nms", seeds=4, **inputs)
    with pytest.raises(harness.HarnessError, match=message):
        harness.run(mutant, seeds=4, **inputs)
