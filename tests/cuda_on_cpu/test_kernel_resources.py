"""The kernels compile for real GPUs, spill nothing unexpected, and need what the table says."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.kernel_instructions import functions, inner_loop, loads_in_flight, row

from . import harness

# All six, which takes three times as long, where FASTRPN_ALL_ARCHS is set.
ARCHS = "75,80,86,90,100,120" if os.environ.get("FASTRPN_ALL_ARCHS") else "80,90"


@pytest.mark.skipif(
    not (shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")),
    reason="no nvcc",
)
def test_kernels_compile_to_what_the_table_says():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernel_resources", "--check", "--archs", ARCHS],
        cwd=harness.ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


DISASSEMBLY = """
.text.first_kernel:
.L_x_0:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E.U8 R8, desc[UR4][R2.64+0x10] ;
        /*0030*/                   IADD3 R9, R2, 0x10, RZ ;
        /*0040*/                   FADD R10, R6, R7 ;
        /*0050*/              @!P0 LDG.E.64 R12, desc[UR4][R2.64+0x18] ;
        /*0060*/                   LDS R14, [R9] ;
        /*0070*/                   FFMA R15, R8, R13, R14 ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
        /*0090*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00a0*/               @P1 BRA `(.L_x_0) ;
        /*00b0*/                   EXIT ;
.L_x_2:
        /*00c0*/                   BRA `(.L_x_2);
.text.second_kernel:
        /*0000*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0010*/                   EXIT ;
"""


def test_instructions_of_a_loop_are_counted():
    found = functions(DISASSEMBLY)
    assert list(found) == ["first_kernel", "second_kernel"]
    instructions, loops = found["first_kernel"]
    assert loops == [(1, 8), (0, 10), (12, 12)]
    loop = inner_loop(instructions, loops)
    assert loop == instructions[1:9]
    # R6 comes with the first load, which leaves the second; R8 and R13 are then waited for.
    assert (
        loads_in_flight(loop) == loads_in_flight(loop[:4]) == 2 and loads_in_flight(loop[:1]) == 1
    )
    expected = [
        "`a`",
        "8",
        "3",
        "0",
        "1",
        "0",
        "2",
        "1",
        "0",
        "0",
        "1",
        "1 × 1, 1 × 8, 1 × 16",
        "2",
    ]
    assert row("a", instructions, loops) == expected
    assert row("b", *found["second_kernel"])[:4] == ["`b`, all of it: no loop", "2", "0", "1"]
