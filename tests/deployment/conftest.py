"""One detector in every format, exported once."""

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
