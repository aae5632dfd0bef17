"""The SIMD level of the CPU kernels, as the environment or a call chooses it."""

import os
import subprocess
import sys

import pytest

from fastrpn._library import core, set_simd_level

QUESTION = "from fastrpn._library import core; print(core().build_info()['simd_level'])"


def level_of_a_new_process(**environment) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "FASTRPN_SIMD"}
    return subprocess.run(
        [sys.executable, "-c", QUESTION],
        env={**inherited, **environment}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_the_environment_names_the_level(simd_level):
    assert level_of_a_new_process(FASTRPN_SIMD=simd_level) == simd_level


def test_without_a_level_that_runs_here_it_is_the_best(simd_level):
    best = level_of_a_new_process()
    assert level_of_a_new_process(FASTRPN_SIMD="avx1024") == best
    levels = core().build_info()["simd_levels"]
    assert levels.index(best) >= levels.index(simd_level)


def test_a_forced_level_is_in_use(simd_level):
    assert core().build_info()["simd_level"] == simd_level


def test_an_unknown_level_is_refused_and_changes_nothing():
    before = core().build_info()["simd_level"]
    with pytest.raises(ValueError, match="avx1024"):
        set_simd_level("avx1024")
    assert core().build_info()["simd_level"] == before
