"""roi_align: torchvision's results, gradients, layouts, types, bad input."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_cases import DTYPES, LAYOUTS, SCALE, any_rois, output_and_gradient, random_case

from fastrpn.ops import RoIAlign, multiscale_roi_align, reference, roi_align, roi_pool

# torchvision adds four products for each sample and divides; ours adds the weights of a cell first.
# The absolute weights of a bin sum to 1 and features are normal, so each of the two sums of up to
# n = 100 terms has an error below n * 2^-24 * 5: the difference stays under 6e-5, and is 1e-6 here.
# A gradient element sums some hundred such terms.
CLOSE = {"rtol": 1e-5, "atol": 5e-6}
CLOSE_GRAD = {"rtol": 1e-5, "atol": 5e-5}


def both(features, rois, *args):
    """Output and gradient of ours, then of torchvision's."""
    ours = output_and_gradient(roi_align, features, rois, *args)
    return *ours, *output_and_gradient(torchvision.ops.roi_align, features, rois, *args)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 20, 64])
@pytest.mark.parametrize("output_size", [7, (3, 5)])
@pytest.mark.parametrize("sampling_ratio", [-1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_equals_torchvision(layout, channels, output_size, sampling_ratio, aligned):
    features, rois = random_case(channels, channels=channels)
    rois[5] = rois[5, [0, 3, 4, 1, 2]]  # corners swapped
    rois[6, 3:] = rois[6, 1:3]  # no extent
    features = features.contiguous(memory_format=layout)
    output, grad, expected, expected_grad = both(
        features, rois, output_size, SCALE, sampling_ratio, aligned
    )
    torch.testing.assert_close(output, expected, **CLOSE)
    torch.testing.assert_close(grad, expected_grad, **CLOSE_GRAD)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_float64_equals_torchvision_and_oracle(layout, sampling_ratio):
    features, rois = random_case(1, dtype=torch.float64, rois=20)
    args = ((4, 3), SCALE, sampling_ratio, True)
    features = features.contiguous(memory_format=layout)
    output, grad, expected, expected_grad = both(features, rois, *args)
    oracle, oracle_grad = output_and_gradient(reference.roi_align, features, rois, *args)
    for result in (expected, oracle):
        torch.testing.assert_close(output, result, rtol=1e-12, atol=1e-12)
    for result in (expected_grad, oracle_grad):
        torch.testing.assert_close(grad, result, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(any_rois, st.sampled_from(LAYOUTS), st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_any_rois_equal_the_oracle_and_align_is_linear(rois, layout, size, sampling_ratio, aligned):
    rois = torch.tensor(rois, dtype=torch.float64)
    args = (rois, (size, 3), 0.5, sampling_ratio, aligned)
    features = random_case(14, channels=9, height=8, width=11, dtype=torch.float64)[0]
    more = features.flip(0).contiguous(memory_format=layout)
    output, other = roi_align(features, *args), roi_align(more, *args)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(output, reference.roi_align(features, *args), **close)
    torch.testing.assert_close(roi_align(features + 3 * more, *args), output + 3 * other, **close)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite(layout, sampling_ratio, value):
    """As in torchvision, where a sample off the map counts as 0 times the map's first cell."""
    features, rois = random_case(15, channels=24)
    bad = torch.rand(features.shape, generator=torch.Generator().manual_seed(2)) < 0.03
    bad[:, :, 0, 0] = False
    features = features.masked_fill(bad, value).contiguous(memory_format=layout)
    args = (rois, (7, 7), SCALE, sampling_ratio)
    expected = torchvision.ops.roi_align(features, *args)
    output = roi_align(features, *args)
    assert torch.equal(output.isfinite(), expected.isfinite()) and not expected.isfinite().all()
    # At the far border torchvision reads a cell twice, with weights 1 and 0: infinity turns to NaN.
    same = ~expected.isnan() | (value != value)
    torch.testing.assert_close(output[same], expected[same], **CLOSE, equal_nan=True)
    features = torch.zeros(1, 8, 5, 6).contiguous(memory_format=layout)
    features[:, :, 0, 0] = value
    off = torch.tensor([[0.0, -90, -90, -50, -50]])
    assert (roi_align(features, off, 3, 1.0, sampling_ratio) == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("roi_dtype", [torch.float32, None])
@pytest.mark.parametrize("channels", [33, 16, 80])
def test_half_types_compute_in_float32(simd_level, layout, dtype, roi_dtype, channels):
    features, rois = random_case(2, channels=channels, dtype=dtype)
    features, rois = features.contiguous(memory_format=layout), rois.to(roi_dtype or dtype)
    output, grad = output_and_gradient(roi_align, features, rois, 7, SCALE, 2)
    gradient = torch.randn(
        output.shape, generator=torch.Generator().manual_seed(9), dtype=dtype
    ).float()
    wide = features.float().requires_grad_()
    expected = roi_align(wide, rois.float(), 7, SCALE, 2)
    expected.backward(gradient)
    assert torch.equal(output, expected.to(dtype))
    assert torch.equal(grad, wide.grad.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 16, 24, 64, 96])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operator", [roi_align, roi_pool])
def test_every_half_value_is_widened_and_rounded_as_torch_does(
    simd_level, layout, channels, dtype, operator
):
    values = torch.arange(2**16, dtype=torch.int32).sub(2**15).to(torch.int16).view(dtype)
    values = torch.cat([values, values[: -len(values) % (64 * channels)]])
    features = values.view(1, channels, -1, 64).contiguous(memory_format=layout)
    height = features.shape[2]  # the bins of a RoI are single cells, or lie between two
    rois = [[0, x, y, x + 63, y + 7] for y in range(0, height, 8) for x in (0, 0.5)]
    rois = torch.tensor(rois, dtype=torch.float32)
    expected = operator(features.float(), rois, (8, 64)).to(dtype)
    found = operator(features, rois, (8, 64))
    assert torch.equal(found.isnan(), expected.isnan()) and expected.isfinite().any()
    assert torch.equal(found.nan_to_num(3.0), expected.nan_to_num(3.0))


def test_layouts_agree_bit_for_bit():
    features, rois = random_case(3, channels=64)
    results = [
        output_and_gradient(roi_align, features.contiguous(memory_format=layout), rois, 7, SCALE, 2)
        for layout in LAYOUTS
    ]
    for layout, result in zip(LAYOUTS, results, strict=True):
        assert all(tensor.is_contiguous(memory_format=layout) for tensor in result)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_result_at_every_simd_level_and_thread_count(layout, simd_level, num_threads, plainly):
    features, rois = random_case(4, channels=70, rois=300)
    arguments = (features.contiguous(memory_format=layout), rois, 7, SCALE, -1)
    expected = plainly(lambda: output_and_gradient(roi_align, *arguments))
    assert all(map(torch.equal, output_and_gradient(roi_align, *arguments), expected))


def test_list_of_boxes_and_module():
    features, rois = random_case(5)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    expected = torchvision.ops.roi_align(features, boxes, (2, 3), SCALE, 2, True)
    torch.testing.assert_close(roi_align(features, boxes, (2, 3), SCALE, 2, True), expected)
    torch.testing.assert_close(RoIAlign((2, 3), SCALE, 2, True)(features, boxes), expected)


def test_not_contiguous():
    features, rois = random_case(6, channels=12)
    sliced = features[:, ::2, 1:, 3:-2]
    scattered = torch.stack([rois, rois], dim=2)[..., 0]
    expected = torchvision.ops.roi_align(sliced.contiguous(), rois, 7, SCALE, 2)
    torch.testing.assert_close(roi_align(sliced, scattered, 7, SCALE, 2), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_bad_rois_give_zeros(layout, sampling_ratio, aligned):
    features, rois = random_case(7, rois=8)
    features = features.contiguous(memory_format=layout).requires_grad_()
    rois[0, 1], rois[1, 4], rois[2, 3] = float("nan"), float("inf"), -float("inf")
    rois[3, 0] = float("nan")
    rois[4, 1:] = torch.tensor([-3e38, -3e38, 3e38, 3e38])
    rois[5, 1:] = torch.tensor([-1e9, -1e9, 1e9, 1e9])  # few of its many samples are on the map
    rois[6, 1:] = torch.tensor([-1e4, -1e4, 1e4, 1e4])
    output = roi_align(features, rois, 7, SCALE, sampling_ratio, aligned)
    assert (output[:4] == 0).all()
    assert (output[4:6].abs() < 1e-8).all()
    expected = torchvision.ops.roi_align(features, rois[6:], 7, SCALE, sampling_ratio, aligned)
    torch.testing.assert_close(output[6:], expected, **CLOSE)
    assert expected[1].any()
    output[:4].sum().backward()
    assert (features.grad == 0).all()
    # The kernel's own guard, behind the check in Python.
    rois[:2] = torch.tensor([[5.0, 0, 0, 99, 99], [-1.0, 0, 0, 99, 99]])
    raw = torch.ops.fastrpn.roi_align(
        [features.detach()], rois, None, [SCALE], 7, 7, sampling_ratio, aligned
    )
    assert (raw[:4] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty(layout):
    features, rois = random_case(8)
    features = features.contiguous(memory_format=layout).requires_grad_()
    output = roi_align(features, rois[:0], 7, SCALE, 2)
    assert output.shape == (0, 20, 7, 7)
    output.sum().backward()
    assert (features.grad == 0).all() and features.grad.shape == features.shape
    assert roi_align(features[:, :0], rois, 7, SCALE, 2).shape == (40, 0, 7, 7)
    assert (roi_align(features[:, :, :0], rois, 7, SCALE, 2) == 0).all()


def test_map_too_large_to_pack():
    features, rois = random_case(9, batch=1, channels=2, height=500, width=600, rois=6)
    rois[0, 1:] = torch.tensor([-9.0, -9.0, 9600, 8000])
    rois[1, 1:] = torch.tensor([160.0, 160.0, 9000.0, 7900.0])
    for layout in LAYOUTS:
        output, grad, expected, expected_grad = both(
            features.contiguous(memory_format=layout), rois, 7, SCALE, -1
        )
        # Some 6,000 samples a bin: torchvision's sum has the larger error.
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_gradcheck(layout, sampling_ratio):
    features, rois = random_case(10, channels=3, height=6, width=7, rois=5, dtype=torch.float64)
    features = features.contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, 3, SCALE, sampling_ratio, True), features
    )


def test_double_backward_raises():
    features, rois = random_case(11)
    features.requires_grad_()
    output = roi_align(features, rois, 7, SCALE, 2)
    weight = torch.ones_like(output, requires_grad=True)
    (grad,) = torch.autograd.grad(output, features, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        grad.sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(layout, dtype):
    features, rois = random_case(12, channels=16, rois=6, dtype=dtype)
    features = features.contiguous(memory_format=layout).requires_grad_()
    coarse = features.detach()[:, :, ::2, ::2].contiguous(memory_format=layout).requires_grad_()
    levels = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.int32)
    scales = [SCALE, SCALE / 2]
    operators = torch.ops.fastrpn
    torch.library.opcheck(
        operators.roi_align.default, ([features], rois, None, [SCALE], 3, 2, 2, False)
    )
    torch.library.opcheck(
        operators.roi_align.default, ([features, coarse], rois, levels, scales, 3, 2, -1, True)
    )
    grad = torch.randn(6, 16, 3, 2).to(dtype)
    torch.library.opcheck(
        operators.roi_align_backward.default,
        (grad, rois, levels, scales, 2, True, 2, [19, 10], [25, 13], layout == LAYOUTS[1]),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_break(layout):
    features, rois = random_case(13)
    features = features.contiguous(memory_format=layout).requires_grad_()
    compiled = torch.compile(roi_align, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (40, 17):
        output = compiled(features, rois[:count], 7, SCALE, 2)
        expected = roi_align(features, rois[:count], 7, SCALE, 2)
        assert torch.equal(output, expected)
        assert output.stride() == expected.stride()
        output.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.zeros(3, 4, 4)}, ValueError, r"input: expected shape \[N, C, H, W\]"),
        ({"boxes": torch.zeros(2, 4)}, ValueError, r"boxes: expected shape \[K, 5\]"),
        ({"boxes": torch.zeros(2, 5).half()}, TypeError, "boxes: expected the dtype of input"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 1, 1]])}, ValueError, "batch index from 0 to 1"),
        ({"output_size": -1}, ValueError, "output_size: expected a positive int"),
        ({"spatial_scale": 0.0}, ValueError, "spatial_scale: expected a positive"),
    ],
)
def test_bad_arguments(change, error, message):
    good = {"input": torch.zeros(2, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2}
    with pytest.raises(error, match=message):
        roi_align(**{**good, **change})


def test_a_sampling_ratio_beyond_32_bits_is_refused():
    features, rois = torch.rand(1, 2, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]])
    for ratio in (2**31, 2**40, 2**62):
        with pytest.raises(ValueError, match=f"sampling_ratio: .* got {ratio}"):
            roi_align(features, rois, 2, sampling_ratio=ratio)
        with pytest.raises(ValueError, match=f"sampling_ratio: .* got {ratio}"):
            multiscale_roi_align([features], rois, None, 2, [1.0], ratio)
        with pytest.raises(RuntimeError, match="sampling_ratio"):
            torch.ops.fastrpn.roi_align([features], rois, None, [1.0], 2, 2, ratio, False)
