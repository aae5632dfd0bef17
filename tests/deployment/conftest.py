"""One detector in every format, exported once."""

import os

import pytest

from fastrpn.deployment import export
from tests.deployment.detectors import detector

SUFFIXES = {"torch": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}


@pytest.fixture(scope="session")
def tiny():
    return detector("tiny")


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory):
    """Format -> its file, for images of any size."""
    folder, files = tmp_path_factory.mktemp("exported"), {}

    def file(format):
        if format not in files:
            path = folder / f"{format}{SUFFIXES[format]}"
            files[format] = export(tiny, path, format=format, classes=["cat", "dog", "gnu"])
        return files[format]

    return file


def pytest_collection_modifyitems(config, items):
    """Every model in every format takes long: only `pytest -m slow` runs it."""
    if "slow" in config.option.markexpr:
        return
    here = os.path.dirname(__file__)
    left_out = [i for i in items if i.get_closest_marker("slow") and str(i.path).startswith(here)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
