"""generate_proposals: the oracle's and torchvision's proposals.

The kernel's exp may differ from torch's in the last place, so boxes and scores are compared with a
tolerance of a few of those; which boxes are kept, and their order, is compared exactly.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork

from fastrpn import ops
from fastrpn.ops import reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OPTIONS = {"pre_nms_top_n": 60, "post_nms_top_n": 30, "nms_threshold": 0.6, "min_size": 1e-3}


def random_inputs(batch: int, levels: list[int], seed: int, dtype=torch.float32, ties=False):
    """Objectness, deltas, anchors, image sizes. Many anchors overlap; some leave the image."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    num_anchors = sum(levels)
    centre = 100 * torch.rand(num_anchors, 2, generator=generator, dtype=torch.float64)
    size = torch.exp(3 + 0.7 * randn(num_anchors, 2))
    anchors = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    objectness = 3 * randn(batch, num_anchors)
    if ties:
        objectness = objectness.round()
    deltas = 0.3 * randn(batch, num_anchors, 4)
    image_sizes = torch.randint(40, 110, (batch, 2), generator=generator)
    return objectness.to(dtype), deltas.to(dtype), anchors.to(dtype), image_sizes


def assert_same(ours, wanted) -> None:
    assert torch.equal(ours[2], wanted[2])
    for mine, theirs in zip(ours[:2], wanted[:2], strict=True):
        eps = torch.finfo(theirs.dtype).eps
        # Boxes are sums of numbers up to 400 (an anchor times the largest exp).
        torch.testing.assert_close(mine, theirs, rtol=8 * eps, atol=400 * 4 * eps)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(0, 3),
    levels=st.sampled_from([[0], [1], [50], [64, 32, 7], [300, 0, 20], [5000, 300], [10, 3000]]),
    dtype=st.sampled_from(DTYPES),
    ties=st.booleans(),
    pre_nms_top_n=st.sampled_from([1, 7, 60, 1000]),
    post_nms_top_n=st.sampled_from([1, 10, 200]),
    nms_threshold=st.sampled_from([0.3, 0.7, 1.0]),
    min_size=st.sampled_from([0.0, 1e-3, 16.0, 1000.0]),
)
def test_equals_the_oracle(seed, batch, levels, dtype, ties, **options):
    inputs = random_inputs(batch, levels, seed, dtype, ties)
    options["anchors_per_level"] = levels
    ours = ops.generate_proposals(*inputs, **options)
    assert_same(ours, reference.generate_proposals(*inputs, **options))


@pytest.mark.parametrize("seed", range(10))
def test_equals_torchvisions_filter_proposals(seed):
    levels = [600, 300, 40]
    objectness, deltas, anchors, image_sizes = random_inputs(2, levels, seed)
    rpn = RegionProposalNetwork(
        None, None, 0.7, 0.3, 256, 0.5,
        pre_nms_top_n={"testing": 150}, post_nms_top_n={"testing": 80}, nms_thresh=0.7,
    ).eval()  # fmt: skip
    boxes = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(deltas.reshape(-1, 4), [anchors, anchors])
    wanted_boxes, wanted_scores = rpn.filter_proposals(
        boxes.view(2, -1, 4), objectness, [tuple(size) for size in image_sizes.tolist()], levels
    )
    proposals, scores, counts = ops.generate_proposals(
        objectness, deltas, anchors, image_sizes,
        pre_nms_top_n=150, post_nms_top_n=80, nms_threshold=0.7, min_size=1e-3,
        anchors_per_level=levels,
    )  # fmt: skip
    for b in range(2):
        count = int(counts[b])
        assert count == len(wanted_boxes[b])
        torch.testing.assert_close(proposals[b, :count], wanted_boxes[b], rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(scores[b, :count], wanted_scores[b], rtol=1e-6, atol=1e-7)
        assert not proposals[b, count:].any() and not scores[b, count:].any()


def test_ties_go_by_level_then_anchor():
    anchors = torch.tensor([[100.0 * i, 0, 100.0 * i + 50, 50] for i in range(5)])
    objectness = torch.tensor([[1.0, 2, 1, 2, 1]])
    proposals, _, counts = ops.generate_proposals(
        objectness, torch.zeros(1, 5, 4), anchors, torch.tensor([[100, 1000]]),
        **OPTIONS, anchors_per_level=[2, 3],
    )  # fmt: skip
    assert counts.tolist() == [5]
    assert (proposals[0, :5, 0] / 100).tolist() == [1, 3, 0, 2, 4]


def test_levels_do_not_suppress_each_other():
    anchors = torch.tensor([[0.0, 0, 50, 50]]).expand(4, 4)
    inputs = (torch.zeros(1, 4), torch.zeros(1, 4, 4), anchors, torch.tensor([[100, 100]]))
    assert ops.generate_proposals(*inputs, **OPTIONS)[2].tolist() == [1]
    split = ops.generate_proposals(*inputs, **OPTIONS, anchors_per_level=[2, 2])
    assert split[2].tolist() == [2]


@pytest.mark.parametrize("where", ["objectness", "deltas", "anchors"])
def test_nan_takes_no_part_and_infinity_does_not_crash(where):
    levels = [200, 100]
    for value in (math.nan, math.inf, -math.inf):
        objectness, deltas, anchors, image_sizes = random_inputs(2, levels, 0)
        changed = {"objectness": objectness, "deltas": deltas, "anchors": anchors}[where]
        changed.view(-1)[::7] = value
        inputs = (objectness, deltas, anchors, image_sizes)
        ours = ops.generate_proposals(*inputs, **OPTIONS, anchors_per_level=levels)
        assert not ours[0].isnan().any() and not ours[1].isnan().any()
        wanted = reference.generate_proposals(*inputs, **OPTIONS, anchors_per_level=levels)
        assert_same(ours, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_with_float32_anchors(dtype):
    objectness, deltas, anchors, image_sizes = random_inputs(2, [300], 0, dtype)
    anchors = anchors.float() + 0.123
    ours = ops.generate_proposals(objectness, deltas, anchors, image_sizes, **OPTIONS)
    assert ours[0].dtype == ours[1].dtype == torch.float32
    wanted = ops.generate_proposals(
        objectness.float(), deltas.float(), anchors, image_sizes, **OPTIONS
    )
    assert torch.equal(ours[0], wanted[0]) and torch.equal(ours[2], wanted[2])


def test_threads_and_simd_levels_do_not_matter(simd_level, num_threads, plainly):
    levels = [9000, 2000, 500]
    inputs = random_inputs(3, levels, 0)
    options = {**OPTIONS, "pre_nms_top_n": 1500, "post_nms_top_n": 700}

    def propose():
        return ops.generate_proposals(*inputs, **options, anchors_per_level=levels)

    assert all(map(torch.equal, propose(), plainly(propose)))


def test_non_contiguous_inputs():
    objectness, deltas, anchors, image_sizes = random_inputs(2, [400], 0)
    wanted = ops.generate_proposals(objectness, deltas, anchors, image_sizes, **OPTIONS)
    ours = ops.generate_proposals(
        objectness.t().contiguous().t(),
        deltas.transpose(1, 2).contiguous().transpose(1, 2),
        anchors.t().contiguous().t(),
        image_sizes.int(),
        **OPTIONS,
    )
    assert all(map(torch.equal, ours, wanted))


def test_no_gradient_flows_back():
    objectness, deltas, anchors, image_sizes = random_inputs(1, [50], 0)
    ours = ops.generate_proposals(
        objectness.requires_grad_(), deltas.requires_grad_(), anchors, image_sizes, **OPTIONS
    )
    assert not any(tensor.requires_grad for tensor in ours)


@pytest.mark.parametrize("index", [0, 1])
def test_the_raw_operator_does_not_drop_a_gradient_silently(index):
    objectness, deltas, anchors, image_sizes = random_inputs(1, [50], 0)
    inputs = (objectness, deltas.requires_grad_(), anchors, image_sizes)
    outputs = torch.ops.fastrpn.generate_proposals(*inputs, *OPTIONS.values(), [50])
    with pytest.raises(NotImplementedError, match="generate_proposals has no gradient"):
        outputs[index].sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_and_compile(dtype):
    inputs = random_inputs(2, [80, 20], 0, dtype)
    torch.library.opcheck(
        torch.ops.fastrpn.generate_proposals.default,
        (*inputs, *OPTIONS.values(), [80, 20]),
    )
    compiled = torch.compile(
        lambda *tensors: ops.generate_proposals(*tensors, **OPTIONS, anchors_per_level=[80, 20]),
        fullgraph=True,
        backend="aot_eager",
    )
    wanted = ops.generate_proposals(*inputs, **OPTIONS, anchors_per_level=[80, 20])
    assert all(map(torch.equal, compiled(*inputs), wanted))


GOOD = {
    "objectness": torch.zeros(2, 3),
    "deltas": torch.zeros(2, 3, 4),
    "anchors": torch.zeros(3, 4),
    "image_sizes": torch.zeros(2, 2, dtype=torch.int64),
    **OPTIONS,
}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"objectness": [1.0]}, TypeError, "objectness.*list"),
        ({"objectness": torch.zeros(2, 3).long()}, TypeError, "objectness.*int64"),
        ({"objectness": torch.zeros(3)}, ValueError, r"objectness.*\[3\]"),
        ({"deltas": torch.zeros(2, 3, 5)}, ValueError, r"deltas.*\[2, 3, 5\]"),
        ({"deltas": torch.zeros(2, 3, 4).double()}, TypeError, "deltas.*float64"),
        ({"anchors": torch.zeros(2, 4)}, ValueError, "objectness"),
        ({"anchors": torch.zeros(3, 4).half()}, TypeError, "anchors.*float16"),
        ({"image_sizes": torch.zeros(2, 2)}, TypeError, "image_sizes.*float32"),
        ({"image_sizes": torch.zeros(2, 3).long()}, ValueError, r"image_sizes.*\[2, 3\]"),
        ({"deltas": torch.zeros(2, 3, 4, device="meta")}, ValueError, "deltas.*meta"),
        ({"anchors_per_level": [1, 1]}, ValueError, r"anchors_per_level.*\[1, 1\]"),
        ({"anchors_per_level": [4, -1]}, ValueError, r"anchors_per_level.*\[4, -1\]"),
        ({"pre_nms_top_n": 0}, ValueError, "pre_nms_top_n.*0"),
        ({"post_nms_top_n": -1}, ValueError, "post_nms_top_n.*-1"),
    ],
)
def test_bad_input(changed, error, words):
    with pytest.raises(error, match=words):
        ops.generate_proposals(**(GOOD | changed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("min_size", [0.1, 0.2, 0.3, 16.1])
def test_sides_are_compared_with_a_number_as_torch_compares(dtype, min_size):
    """A side of 0.1 in float32 is not smaller than 0.1, although float32(0.3) is more than 0.3."""
    wide = torch.promote_types(dtype, torch.float32)
    side = torch.tensor(min_size).to(wide)
    sides = torch.stack([side, torch.nextafter(side, 0 * side), torch.nextafter(side, 2 * side)])
    zeros = torch.zeros_like(sides)
    anchors = torch.stack([zeros, zeros, sides, sides], dim=1)
    deltas, objectness = torch.zeros(1, 3, 4, dtype=dtype), torch.zeros(1, 3, dtype=dtype)
    options = {**OPTIONS, "nms_threshold": 2.0, "min_size": min_size}
    proposals, _, counts = ops.generate_proposals(
        objectness, deltas, anchors, torch.tensor([[100, 100]]), **options
    )
    decoded = ops.decode_boxes(deltas[0], anchors)
    wanted = decoded[decoded[:, 2] - decoded[:, 0] >= min_size]
    assert torch.equal(proposals[0, : counts[0]], wanted)


@pytest.mark.parametrize("name", ["nms_threshold", "min_size"])
def test_a_number_that_is_nan_is_refused(name):
    arguments = random_inputs(1, [9], 0)
    with pytest.raises(ValueError, match=f"{name}.*nan"):
        ops.generate_proposals(*arguments, **{**OPTIONS, name: math.nan})
    with pytest.raises(RuntimeError, match=f"{name} must not be NaN"):
        torch.ops.fastrpn.generate_proposals(*arguments, *{**OPTIONS, name: math.nan}.values(), [9])
    for number in (math.inf, -math.inf):
        ops.generate_proposals(*arguments, **{**OPTIONS, name: number})


def test_the_operator_takes_no_sizes_for_one_level():
    generator = torch.Generator().manual_seed(4)
    scores, deltas = torch.rand(2, 30, generator=generator), torch.zeros(2, 30, 4)
    corners = torch.rand(30, 2, generator=generator) * 50
    anchors, sizes = torch.cat([corners, corners + 20], 1), torch.tensor([[70, 70], [60, 65]])
    operator = torch.ops.fastrpn.generate_proposals
    found = operator(scores, deltas, anchors, sizes, 20, 10, 0.5, 1.0, [])
    wanted = operator(scores, deltas, anchors, sizes, 20, 10, 0.5, 1.0, [30])
    assert found[2].min() > 1
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    with pytest.raises(RuntimeError, match="must sum"):
        operator(scores, deltas, anchors, sizes, 20, 10, 0.5, 1.0, [0])
