"""The CPU kernels under AddressSanitizer and UBSan, and what each tool catches.

This is the quick share of `make sanitize`. A build takes a minute the first time. The faults that
need other builds are planted by `make sanitize` alone, which sets FASTRPN_SANITIZE.
"""

import os

import pytest

from . import builds


def skip_without(name: str) -> None:
    reason = builds.missing(name)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("op", builds.OPS)
def test_kernels_are_clean_under_address_and_undefined(op):
    skip_without("address")
    builds.build("address", "run_cases")
    printed = builds.run(builds.program("address", "run_cases"), "64", op)
    assert f"64 cases at {' '.join(builds.simd_levels())}" in printed


# name: (build, source of the kernel, file, original, mistake, op, what the tool says)
FAULTS = {
    "overrun_by_one": (
        "address",
        "ops/nms/nms_cpu.cpp",
        "ops/nms/nms_cpu.cpp",
        "for (int64_t i = count; i < args.max_output; ++i)",
        "for (int64_t i = count; i < args.max_output + (args.max_output > 0); ++i)",
        "nms",
        "heap-buffer-overflow",
    ),
    "null_to_memset": (
        "address",
        "ops/roi_align/roi_align_backward_cpu.cpp",
        "ops/roi_align/roi_align_backward_cpu.cpp",
        "if (cells == 0) return;",
        "",
        "roi_align_backward",
        "null pointer",
    ),
    "element_not_written": (
        "address",
        "ops/soft_nms/soft_nms_cpu.cpp",
        "ops/soft_nms/soft_nms_cpu.cpp",
        "decayed[selected.size()] = narrow<Storage>(top.score);",
        "if (selected.size() > 0) decayed[selected.size()] = narrow<Storage>(top.score);",
        "soft_nms",
        "not same",
    ),
    "data_race": (
        "thread",
        "ops/match_anchors/match_anchors_cpu.cpp",
        "ops/match_anchors/match_anchors_cpu.cpp",
        "best_.data() + (image * slices_ + slice) * padded_",
        "best_.data() + image * slices_ * padded_",
        "match_anchors",
        "data race",
    ),
    "uninitialised_read": (
        "valgrind",
        "ops/soft_nms/soft_nms_cpu.cpp",
        "ops/nms/kept_list_cpu.h",
        "if (lane == 0) block.clear();",
        "",
        "soft_nms",
        "uninitialised value",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault):
    build, source, file, old, new, op, message = FAULTS[fault]
    if build != "address" and "FASTRPN_SANITIZE" not in os.environ:
        pytest.skip("make sanitize runs this")
    skip_without(build)
    mutant = builds.build_mutant(build, source, file, old, new)
    tool = builds.VALGRIND if build == "valgrind" else []
    with pytest.raises(builds.NativeError, match=message):
        builds.run(*tool, mutant, "64", op)
