"""generate_proposals' CUDA kernels against the CPU operator."""

import pytest
import torch

from fastrpn import ops

from . import harness

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_inputs(batch: int, num_anchors: int, dtype=torch.float32, anchor_dtype=None):
    generator = torch.Generator().manual_seed(num_anchors)
    centres = torch.rand(num_anchors, 2, generator=generator) * 100
    sides = torch.rand(num_anchors, 2, generator=generator) * 20 + 10
    anchors = torch.cat([centres - sides, centres + sides], dim=1)
    logits = torch.randint(-40, 40, (batch, num_anchors), generator=generator) / 8
    deltas = torch.randn(batch, num_anchors, 4, generator=generator) / 4
    sizes = torch.tensor([[90, 100], [60, 120], [100, 80]])[:batch]
    return logits.to(dtype), deltas.to(dtype), anchors.to(anchor_dtype or dtype), sizes


def run_both(inputs, anchors_per_level=None, seeds=3, **options):
    options = {
        "pre_nms_top_n": 60,
        "post_nms_top_n": 30,
        "nms_threshold": 0.6,
        "min_size": 8.0,
        **options,
    }
    expected = ops.generate_proposals(*inputs, anchors_per_level=anchors_per_level, **options)
    names = ("objectness", "deltas", "anchors", "image_sizes")
    outputs = harness.run(
        "generate_proposals",
        **dict(zip(names, inputs, strict=True)),
        anchors_per_level=torch.tensor(anchors_per_level or [inputs[2].shape[0]]),
        seeds=seeds,
        **options,
    )
    for name, value in zip(("proposals", "scores", "counts"), expected, strict=True):
        torch.testing.assert_close(outputs[name], value, rtol=1e-6, atol=1e-5)
    return expected[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_cpu(dtype):
    counts = run_both(random_inputs(2, 300, dtype), [200, 90, 0, 10])
    assert (counts > 10).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float_anchors_beside_half_logits(dtype):
    run_both(random_inputs(2, 200, dtype, torch.float32))


def test_fewer_than_asked_for():
    counts = run_both(random_inputs(3, 50), [40, 10], post_nms_top_n=80, min_size=25.0)
    assert (counts > 0).all() and (counts < 50).all()


def test_nan_logits_and_boxes_are_dropped():
    inputs = random_inputs(1, 100)
    inputs[0][0, 3:40:3] = float("nan")
    inputs[0][0, 1] = float("inf")
    inputs[1][0, 50:70] = float("nan")
    run_both(inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", [1, 2048, 2049, 5000])
def test_levels_of_several_tiles(dtype, wanted):
    """Few distinct logits: ties at the border lie in several tiles, and the first anchors win."""
    inputs = random_inputs(2, 4500, dtype)
    inputs[0][:] = inputs[0].round()
    options = {"pre_nms_top_n": wanted, "post_nms_top_n": 50, "nms_threshold": 0.3}
    counts = run_both(inputs, [4200, 300], seeds=1, **options)
    assert (counts > 0).all()


@pytest.mark.parametrize("logit", [0.0, -0.0, float("-inf"), 3.5])
def test_equal_logits_rank_by_anchor(logit):
    inputs = random_inputs(1, 2500)
    inputs[0][:] = logit
    counts = run_both(inputs, pre_nms_top_n=40, seeds=1)
    assert counts > 0


def test_nan_logits_take_their_places():
    """They rank first and are dropped then: with enough of them nothing is proposed."""
    inputs = random_inputs(1, 2500)
    inputs[0][0, 2200:2260] = float("nan")
    assert run_both(inputs, pre_nms_top_n=60, seeds=1) == 0
    assert run_both(inputs, pre_nms_top_n=61, seeds=1, min_size=0.0) == 1


def test_more_lists_than_a_grid_has_rows():
    inputs = [torch.zeros(33_000, 1), torch.zeros(33_000, 1, 4), torch.zeros(1, 4)]
    sizes = torch.ones(33_000, 2, dtype=torch.int64)
    with pytest.raises(harness.HarnessError, match="more than 65535 levels of images"):
        run_both((*inputs, sizes), [1, 0], seeds=1, post_nms_top_n=1)


@pytest.mark.parametrize("batch, num_anchors", [(0, 5), (2, 0)])
def test_nothing_to_propose(batch, num_anchors):
    run_both(random_inputs(batch, num_anchors), seeds=1)
