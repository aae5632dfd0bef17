"""Fixtures for tests of the CPU kernels, whose results depend on neither SIMD level nor threads."""

import pytest
import torch

from fastrpn._library import core, set_simd_level

SHARED = ("deployment", "packaging")  # folders whose tests share what takes long to build


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Processes that share the tests (pytest -n 2) take whole files, or such folders."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            folder = file.split("/")[1]
            return folder if folder in SHARED else file

    return ByFile(config, log)


@pytest.fixture(params=["generic", "avx2", "avx512"])
def simd_level(request):
    """Forces each SIMD level in turn, or skips where this CPU lacks it."""
    before = core().build_info()["simd_level"]
    try:
        set_simd_level(request.param)
    except ValueError:
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    set_simd_level(before)


@pytest.fixture(params=[1, 2, 4])
def num_threads(request):
    """Gives torch this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def plainly():
    """A function that makes a call on one thread and with no SIMD, and returns its result."""

    def run(call):
        level, threads = core().build_info()["simd_level"], torch.get_num_threads()
        set_simd_level("generic")
        torch.set_num_threads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(threads)
            set_simd_level(level)

    return run


@pytest.fixture
def from_command_line(monkeypatch):
    """What `fastrpn train` makes of its options."""

    from fastrpn import commands
    from fastrpn.cli import main

    class Reached(Exception):
        pass

    def parse(*arguments):
        def stop(config):
            raise Reached(config)

        monkeypatch.setattr(commands, "train", stop)
        with pytest.raises(Reached) as reached:
            main(["train", *arguments])
        return reached.value.args[0]

    return parse
