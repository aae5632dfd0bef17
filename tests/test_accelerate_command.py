"""`python -m fastrpn.accelerate`: other people's programs, unchanged."""

import subprocess
import sys

import pytest

pytest.importorskip("torchvision")

PROGRAM = """\
import sys
import torch
from torchvision.ops import box_iou, nms

def main():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        kept = nms(boxes, torch.tensor([0.1, 0.9, 0.5]), 0.5)
    ours = any(event.name == "fastrpn::nms" for event in profile.events())
    print(kept.tolist(), ours, hasattr(box_iou, '__wrapped__'), sys.argv[1:])
    if "fail" in sys.argv:
        raise RuntimeError("of the program")
    sys.exit(3)

if __name__ == "__main__":
    import beside
    main()
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("")
    return tmp_path / "program.py"


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def accelerated(*arguments, **options):
    return python("-m", "fastrpn.accelerate", *arguments, **options)


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_program_runs_on_our_kernels(program, how):
    if how == "script":
        done, plain = (run(program, "a", "-m", "--b=1") for run in (accelerated, python))
    else:
        words, folder = ("-m", "program", "a", "-m", "--b=1"), {"cwd": program.parent}
        done, plain = accelerated(*words, **folder), python(*words, **folder)
    assert done.returncode == plain.returncode == 3, done.stderr
    arguments = "['a', '-m', '--b=1']"
    assert plain.stdout == f"[1, 2] False False {arguments}\n"
    assert done.stdout == f"[1, 2] True True {arguments}\n"


def test_its_traceback_is_its_own(program):
    done = accelerated(program, "fail")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: of the program"
    assert f'File "{program}", line 12, in main' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: python -m fastrpn.accelerate"),
        (["-m"], "usage: python -m fastrpn.accelerate"),
        (["--help"], "usage: python -m fastrpn.accelerate"),
        (["nowhere.py"], "fastrpn.accelerate: nowhere.py: no such file"),
    ],
)
def test_what_it_cannot_run(arguments, said):
    done = accelerated(*arguments)
    assert done.returncode == 2 and done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
