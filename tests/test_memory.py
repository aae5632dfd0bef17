"""Freed memory is reused where the command line asks for it."""

import os
import subprocess
import sys

import pytest

TENSORS = """
import resource, torch
from fastrpn.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
faults()
# A small allocation in the middle of what was freed moves the next tensor, once.
print(before, kept, min(faults() for _ in range(4)))
"""


def run(**variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", TENSORS],
        capture_output=True,
        text=True,
        env=environment | variables,
        check=True,
    )
    before, kept, after = done.stdout.split()
    return int(before), kept == "True", int(after)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="another C library")
def test_large_tensors_cost_no_page_faults_any_more():
    before, kept, after = run()
    assert kept and after < before / 100


def test_the_environment_comes_first():
    before, kept, after = run(MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept and after > before / 2
