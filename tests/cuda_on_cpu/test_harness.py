"""The harness itself: a correct kernel passes, and each broken rule is reported."""

import pytest
import torch

from . import harness


def run_case(name: str, seeds: int = 8) -> torch.Tensor:
    case = torch.tensor(list(name.encode()), dtype=torch.uint8)
    return harness.run("self_test", case=case, seeds=seeds)["out"]


def test_a_correct_kernel_passes():
    # 2016 = 0 + ... + 63; 64 votes; 32 even threads; twice the thread's own number.
    assert run_case("correct").tolist() == [2016 + 64 + 32 + 2 * t for t in range(64)]


@pytest.mark.parametrize(
    "case, message",
    [
        ("missing_barrier", "depends on the order of threads"),
        ("uninitialised_shared", "depends on the order of threads"),
        ("return_before_barrier", "returned"),
        ("divergent_barriers", "are at different barriers"),
        ("caller_outside_mask", "lane 0 calls with the mask fffffffe, which lacks it"),
        ("lane_never_comes", "deadlock"),
        ("lane_has_returned", "returned"),
        ("lane_does_not_exist", "names lane 16, which does not exist"),
        ("masks_differ", "call with the masks"),
        ("shuffle_from_outside", "shuffle reads lane 20, outside mask 0000ffff"),
        ("static_shared_overrun", "insufficient space|global-buffer-overflow"),
        ("dynamic_shared_overrun", "heap-buffer-overflow"),
        ("global_overrun", "heap-buffer-overflow"),
        ("misaligned_vector", "misaligned address"),
        ("overflowing_cast", "outside the range of representable values"),
        ("other_stream", "another stream"),
        ("empty_grid", "bad grid"),
        ("host_reads_device_memory", "use-after-poison"),
        ("memset_overrun", "are not device memory"),
    ],
)
def test_a_broken_rule_is_reported(case, message):
    with pytest.raises(harness.HarnessError, match=message):
        run_case(case)
