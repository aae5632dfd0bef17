"""soft_nms: the oracle's selection, and the paper's weights on boxes worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_cases import DTYPES, any_boxes

from fastrpn import ops
from fastrpn.ops import reference

METHODS = ["linear", "gaussian"]


def random_case(n: int, seed: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=generator) * 60
    size = 5 + 30 * torch.rand(n, 2, generator=generator)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    return boxes.to(dtype), torch.rand(n, generator=generator).to(dtype)


def assert_same(got, wanted):
    """exp() may differ in the last bit between libraries, and the products with it."""
    assert torch.equal(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_oracle(method, dtype):
    for seed, n in enumerate([1, 2, 7, 8, 9, 40, 150]):
        boxes, scores = random_case(n, seed, dtype)
        for score_threshold in (0.0, 0.001, 0.3):
            options = {
                "method": method,
                "sigma": 0.5,
                "iou_threshold": 0.3,
                "score_threshold": score_threshold,
            }
            wanted = reference.soft_nms(boxes, scores, **options)
            assert_same(ops.soft_nms(boxes, scores, **options), wanted)


@pytest.mark.parametrize("method", METHODS)
def test_every_simd_level_gives_the_same_bits(method, simd_level, plainly):
    boxes, scores = random_case(500, 3)

    def select():
        return ops.soft_nms(boxes, scores, method=method)

    assert all(map(torch.equal, select(), plainly(select)))


@settings(max_examples=100, deadline=None)
@given(any_boxes, st.integers(0, 10_000), st.floats(0, 1))
def test_any_floats_equal_the_oracle(boxes, seed, iou_threshold):
    boxes = torch.tensor(boxes)
    scores = torch.rand(len(boxes), generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    options = {"method": "linear", "iou_threshold": iou_threshold, "score_threshold": 0.05}
    wanted = reference.soft_nms(boxes, scores, sigma=0.5, **options)
    assert_same(ops.soft_nms(boxes, scores, **options), wanted)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(METHODS), st.floats(0.1, 2))
def test_scores_only_fall_and_are_sorted(seed, method, sigma):
    boxes, scores = random_case(60, seed)
    indices, decayed = ops.soft_nms(boxes, scores, method=method, sigma=sigma, score_threshold=0.01)
    assert len(indices.unique()) == len(indices)
    assert (decayed.diff() <= 0).all() and (decayed > 0.01).all()
    assert (decayed <= scores[indices]).all() and decayed[0] == scores.max()
    alone = (ops.box_iou(boxes, boxes) > 0).sum(1) == 1  # meets no other box
    assert torch.equal(decayed[alone[indices]], scores[indices][alone[indices]])


def test_weights_of_the_paper():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])  # IoU 1/2, 0
    scores = torch.tensor([0.9, 0.8, 0.3])
    indices, decayed = ops.soft_nms(boxes, scores, method="linear", iou_threshold=0.3)
    assert indices.tolist() == [0, 1, 2]
    assert decayed.tolist() == pytest.approx([0.9, 0.4, 0.3])
    indices, decayed = ops.soft_nms(boxes, scores, method="linear", iou_threshold=0.5)
    assert decayed.tolist() == pytest.approx([0.9, 0.8, 0.3])  # 1/2 is not greater than 1/2
    indices, decayed = ops.soft_nms(boxes, scores, method="gaussian", sigma=0.1)
    assert indices.tolist() == [0, 2, 1]
    assert decayed.tolist() == pytest.approx([0.9, 0.3, 0.8 * math.exp(-0.25 / 0.1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width, whole, decays", [(3, 10, True), (7, 10, False), (9, 10, False)])
def test_thresholds_that_an_iou_hits_exactly_are_compared_as_doubles(width, whole, decays, dtype):
    """As nms does: 3/10 in float32 is more than 0.3, 7/10 and 9/10 are less than 0.7 and 0.9."""
    boxes = torch.tensor([[0.0, 0, whole, 1], [0, 0, width, 1]], dtype=dtype)
    scores = torch.tensor([1.0, 0.5], dtype=dtype)
    _, decayed = ops.soft_nms(boxes, scores, iou_threshold=width / whole)
    assert (decayed[1] < 0.5) == decays
    assert (len(ops.nms(boxes, scores, width / whole)) == 1) == decays


def test_ties_go_to_the_lower_index():
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    indices, _ = ops.soft_nms(boxes, torch.tensor([0.5, 0.5, 0.5]))
    assert indices.tolist() == [0, 1, 2]


def test_scores_at_the_threshold_and_nan_are_dropped():
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    indices, scores = ops.soft_nms(boxes, torch.tensor([0.25, math.nan, 0.5]), score_threshold=0.25)
    assert indices.tolist() == [2] and scores.tolist() == [0.5]


@pytest.mark.parametrize("method", METHODS)
def test_coordinates_that_are_not_finite_decay_nothing(method):
    boxes, scores = random_case(100, 5)
    boxes[::7, 0] = math.nan
    boxes[3::7, 2] = math.inf
    got = ops.soft_nms(boxes, scores, method=method)
    wanted = reference.soft_nms(
        boxes, scores, method=method, sigma=0.5, iou_threshold=0.3, score_threshold=0.001
    )
    assert_same(got, wanted)
    bad = set(range(0, 100, 7)) & set(got[0].tolist())
    for index, score in zip(got[0].tolist(), got[1], strict=True):
        assert index not in bad or score == scores[index]


def test_no_boxes():
    indices, scores = ops.soft_nms(torch.empty(0, 4), torch.empty(0))
    assert indices.shape == (0,) and indices.dtype == torch.int64 and scores.shape == (0,)


def test_not_contiguous():
    boxes, scores = random_case(50, 6)
    wide = torch.cat([boxes, scores[:, None]], dim=1)
    assert_same(ops.soft_nms(wide[:, :4], wide[:, 4]), ops.soft_nms(boxes, scores))


@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_passes_opcheck(dtype):
    boxes, scores = random_case(20, 7, dtype)
    arguments = (boxes, scores, "gaussian", 0.5, 0.3, 0.001)
    torch.library.opcheck(torch.ops.fastrpn.soft_nms, arguments)


def test_a_gradient_is_refused_not_dropped():
    boxes, scores = random_case(20, 8)
    scores.requires_grad_()
    assert not ops.soft_nms(boxes, scores)[1].requires_grad
    _, decayed = torch.ops.fastrpn.soft_nms(boxes, scores, "linear", 0.5, 0.3, 0.001)
    with pytest.raises(NotImplementedError, match="soft_nms"):
        decayed.sum().backward()


BOXES, SCORES = torch.zeros(3, 4), torch.zeros(3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "cubic"}, "method.*cubic"),
        ({"sigma": 0.0}, "sigma.*0.0"),
        ({"score_threshold": -1.0}, "score_threshold.*-1.0"),
        ({"score_threshold": math.nan}, "score_threshold.*nan"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ops.soft_nms(BOXES, SCORES, **options)


def test_bad_tensors_are_named():
    with pytest.raises(TypeError, match="scores.*float64"):
        ops.soft_nms(BOXES, SCORES.double())
    with pytest.raises(ValueError, match=r"boxes.*\[3, 3\]"):
        ops.soft_nms(BOXES[:, :3], SCORES)
    with pytest.raises(ValueError, match=r"scores.*\[2\]"):
        ops.soft_nms(BOXES, SCORES[:2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.7, 1e-3])
def test_scores_are_compared_in_their_dtype(method, dtype, threshold):
    scores = torch.tensor([threshold, 0.9, 0.05]).to(dtype)
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]]).to(dtype)
    indices, _ = ops.soft_nms(boxes, scores, method=method, score_threshold=threshold)
    assert sorted(indices.tolist()) == torch.where(scores > threshold)[0].tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_score_returned_is_above_the_threshold(method, dtype):
    for threshold in (0.05, 0.1, 0.2, 0.3):
        boxes, scores = random_case(300, 7, dtype)
        _, decayed = ops.soft_nms(boxes, scores, method=method, score_threshold=threshold)
        assert len(decayed) > 10 and (decayed > threshold).all()


@pytest.mark.parametrize("sigma", [1e-30, 1e-44, 1e-60, 1e-320])
def test_a_tiny_sigma_leaves_boxes_of_tiny_overlap_alone(sigma):
    """In float32 the square of such an IoU and such a sigma are both 0."""
    boxes = torch.tensor([[0.0, 0, 1e15, 1e15], [0, 0, 1e-15, 1e-15], [0, 0, 1e15, 1e15]])
    indices, scores = ops.soft_nms(
        boxes, torch.tensor([0.9, 0.8, 0.7]), method="gaussian", sigma=sigma
    )
    assert indices.tolist() == [0, 1] and scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("name", ["sigma", "iou_threshold", "score_threshold"])
def test_a_number_that_is_nan_is_refused(name):
    boxes, scores = random_case(3, 0)
    with pytest.raises(ValueError, match=f"{name}.*nan"):
        ops.soft_nms(boxes, scores, **{name: math.nan})
    numbers = {"sigma": 0.5, "iou_threshold": 0.3, "score_threshold": 0.1, name: math.nan}
    with pytest.raises(RuntimeError, match=name):
        torch.ops.fastrpn.soft_nms(boxes, scores, "linear", *numbers.values())
