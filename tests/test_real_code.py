"""Other libraries, unchanged, find the same bits on our kernels."""

import pytest

pytest.importorskip("torchvision")

from benchmarks import real_code
from fastrpn import accelerate_torchvision


@pytest.mark.parametrize("name", real_code.CASES)
def test_results_are_the_same_bits(name):
    try:
        run = real_code.CASES[name]()
    except ImportError as error:
        pytest.skip(f"{name}: {error}; pip install --no-deps what is missing")
    wanted = run()
    with accelerate_torchvision():
        ours = run()
    assert sum(array.size for array in wanted if array is not None) > 0
    assert real_code.equal(ours, wanted)
