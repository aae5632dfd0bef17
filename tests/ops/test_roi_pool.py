"""roi_pool: torchvision's results bit for bit, gradients, layouts, types, bad input."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_cases import (
    DTYPES,
    LAYOUTS,
    SCALE,
    any_rois,
    equal_bits,
    output_and_gradient,
    random_case,
)

from fastrpn.ops import RoIPool, reference, roi_pool


def both(features, rois, output_size=7):
    """Output and gradient of ours, then of torchvision's."""
    ours = output_and_gradient(roi_pool, features, rois, output_size, SCALE)
    return *ours, *output_and_gradient(torchvision.ops.roi_pool, features, rois, output_size, SCALE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 64, 100])
@pytest.mark.parametrize("output_size", [1, 7, (3, 5), (20, 2)])
def test_equals_torchvision(layout, channels, output_size):
    features, rois = random_case(channels, channels=channels)
    features = features.contiguous(memory_format=layout)
    expected = torchvision.ops.roi_pool(features, rois, output_size, SCALE)
    assert torch.equal(roi_pool(features, rois, output_size, SCALE), expected)
    output, grad, expected, expected_grad = both(features, rois, output_size)
    assert torch.equal(output, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_features(layout):
    features, rois = random_case(1, channels=40)
    generator = torch.Generator().manual_seed(2)
    for value in (float("nan"), float("inf"), -float("inf"), 0.0, -0.0):
        features[torch.rand(features.shape, generator=generator) < 0.15] = value
    features[0, :8] = float("nan")
    features[1, :8] = -0.0
    features[1, 4:8, ::2, ::2] = 0.0
    features = features.contiguous(memory_format=layout)
    expected, argmax = torch.ops.torchvision.roi_pool(features, rois, SCALE, 7, 7)
    plain = torch.ops.fastrpn.roi_pool(features, rois, SCALE, 7, 7)
    output, winner = torch.ops.fastrpn.roi_pool_argmax(features, rois, SCALE, 7, 7)
    assert equal_bits(plain, expected)
    assert equal_bits(output, expected)
    assert torch.equal(winner, argmax)


def test_equals_oracle():
    features, rois = random_case(3, channels=5, rois=15)
    features[torch.rand(features.shape) < 0.3] = float("nan")
    expected, expected_argmax = reference.roi_pool(features, rois, (4, 3), SCALE)
    output, argmax = torch.ops.fastrpn.roi_pool_argmax(features, rois, SCALE, 4, 3)
    assert torch.equal(output, expected)
    assert torch.equal(argmax, expected_argmax)


@settings(max_examples=60, deadline=None)
@given(any_rois, st.sampled_from(LAYOUTS), st.integers(1, 5), st.integers(1, 5))
def test_any_rois_equal_the_oracle_and_pool_a_maximum(rois, layout, height, width):
    rois = torch.tensor(rois)
    features, more = random_case(17, channels=9, height=8, width=11)[0], random_case(18)[0]
    more = more[:, :9, :8, :11]
    features = features.contiguous(memory_format=layout)
    output = roi_pool(features, rois, (height, width), 0.5)
    assert torch.equal(output, reference.roi_pool(features, rois, (height, width), 0.5)[0])
    # The maximum of two maps pools to the maximum of what they pool to.
    other = roi_pool(more, rois, (height, width), 0.5)
    both = roi_pool(features.maximum(more), rois, (height, width), 0.5)
    assert torch.equal(both, output.maximum(other))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("roi_dtype", [torch.float32, None])
@pytest.mark.parametrize("channels", [33, 16, 80])
def test_half_types_compute_in_float32(simd_level, layout, dtype, roi_dtype, channels):
    features, rois = random_case(4, channels=channels, dtype=dtype)
    features = features.contiguous(memory_format=layout).requires_grad_()
    rois = rois.to(roi_dtype or dtype)
    wide = features.detach().float().requires_grad_()
    output, expected = roi_pool(features, rois, 7, SCALE), roi_pool(wide, rois.float(), 7, SCALE)
    assert torch.equal(output, expected.to(dtype))
    gradient = torch.randn(output.shape).to(dtype)
    output.backward(gradient)
    expected.backward(gradient.float())
    assert torch.equal(features.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64(layout):
    features, rois = random_case(5, dtype=torch.float64)
    output, grad, expected, expected_grad = both(features.contiguous(memory_format=layout), rois)
    assert torch.equal(output, expected)
    assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_results(layout):
    features, rois = random_case(6)
    features = features.contiguous(memory_format=layout).requires_grad_()
    output = roi_pool(features, rois, 7, SCALE)
    assert output.is_contiguous(memory_format=layout)
    output.sum().backward()
    assert features.grad.is_contiguous(memory_format=layout)


def test_not_contiguous():
    features, rois = random_case(7, channels=12)
    sliced = features[:, ::2, 1:, 3:-2]
    scattered = torch.stack([rois, rois], dim=2)[..., 0]
    expected = torchvision.ops.roi_pool(sliced.contiguous(), rois, 7, SCALE)
    assert torch.equal(roi_pool(sliced, scattered, 7, SCALE), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_result_at_every_simd_level_and_thread_count(layout, simd_level, num_threads):
    features, rois = random_case(8, channels=70, rois=300)
    features = features.contiguous(memory_format=layout)
    output, grad, expected, expected_grad = both(features, rois)
    assert torch.equal(output, expected)
    assert torch.equal(grad, expected_grad)
    assert torch.equal(roi_pool(features, rois, 7, SCALE), expected)


def test_list_of_boxes_and_module():
    features, rois = random_case(9)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    expected = torchvision.ops.roi_pool(features, boxes, (2, 3), SCALE)
    assert torch.equal(roi_pool(features, boxes, (2, 3), SCALE), expected)
    assert torch.equal(RoIPool((2, 3), SCALE)(features, boxes), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_rois_give_zeros(layout):
    features, rois = random_case(10, rois=8)
    features = features.contiguous(memory_format=layout).requires_grad_()
    rois[0, 1], rois[1, 4], rois[2, 3], rois[3, 0] = (
        float("nan"),
        float("inf"),
        -float("inf"),
        float("nan"),
    )
    rois[4, 1:] = torch.tensor([-1e11, -1e11, 1e11, 1e11])  # the middle bin has the whole map
    rois[5, 1:] = torch.tensor([-3e38, -3e38, 3e38, 3e38])
    output = roi_pool(features, rois, 7, SCALE)
    assert (output[:4] == 0).all()
    whole = torch.zeros(20, 7, 7)
    whole[:, 3, 3] = features[int(rois[4, 0])].detach().amax((1, 2))
    assert torch.equal(output[4], whole)
    assert output[5].isfinite().all()
    expected = torchvision.ops.roi_pool(features, rois[6:], 7, SCALE)
    assert torch.equal(output[6:], expected) and expected.any()
    output[:4].sum().backward()
    assert (features.grad == 0).all()
    # The kernels' own guard, behind the check in Python.
    rois[0] = torch.tensor([5.0, 0, 0, 99, 99])
    rois[1] = torch.tensor([-1.0, 0, 0, 99, 99])
    raw, argmax = torch.ops.fastrpn.roi_pool_argmax(features.detach(), rois, SCALE, 7, 7)
    assert (raw[:4] == 0).all() and (argmax[:4] == -1).all()
    assert torch.equal(torch.ops.fastrpn.roi_pool(features.detach(), rois, SCALE, 7, 7), raw)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty(layout):
    features, rois = random_case(11)
    features = features.contiguous(memory_format=layout).requires_grad_()
    output = roi_pool(features, rois[:0], 7, SCALE)
    assert output.shape == (0, 20, 7, 7)
    output.sum().backward()
    assert (features.grad == 0).all() and features.grad.shape == features.shape
    assert roi_pool(features[:, :0], rois, 7, SCALE).shape == (40, 0, 7, 7)
    assert roi_pool(features[:0], rois[:0], 7, SCALE).shape == (0, 20, 7, 7)


def test_map_too_large_to_pack():
    features, rois = random_case(12, batch=1, channels=2, height=500, width=600, rois=6)
    rois[0, 1:] = torch.tensor([-9.0, -9.0, 1e6, 1e6])
    rois[1, 1:] = torch.tensor([160.0, 160.0, 9000.0, 7900.0])
    for layout in LAYOUTS:
        output, grad, expected, expected_grad = both(
            features.contiguous(memory_format=layout), rois
        )
        assert torch.equal(output, expected)
        assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout):
    features, rois = random_case(13, channels=3, height=6, width=7, rois=5, dtype=torch.float64)
    features = features.contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, 3, SCALE), features)
    raw = torch.ops.fastrpn.roi_pool
    assert torch.autograd.gradcheck(lambda x: raw(x, rois, SCALE, 3, 3), features)


def test_double_backward_raises():
    features, rois = random_case(14)
    features.requires_grad_()
    output = roi_pool(features, rois, 7, SCALE)
    weight = torch.ones_like(output, requires_grad=True)
    (grad,) = torch.autograd.grad(output, features, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        grad.sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(layout, dtype):
    features, rois = random_case(15, channels=16, rois=6, dtype=dtype)
    features = features.contiguous(memory_format=layout).requires_grad_()
    operators = torch.ops.fastrpn
    torch.library.opcheck(operators.roi_pool.default, (features, rois, SCALE, 3, 2))
    torch.library.opcheck(operators.roi_pool_argmax.default, (features, rois, SCALE, 3, 2))
    output, argmax = operators.roi_pool_argmax(features.detach(), rois, SCALE, 3, 2)
    torch.library.opcheck(
        operators.roi_pool_backward.default, (output, rois, argmax, SCALE, *features.shape)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_break(layout):
    features, rois = random_case(16)
    features = features.contiguous(memory_format=layout).requires_grad_()
    compiled = torch.compile(roi_pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (40, 17):
        output = compiled(features, rois[:count], 7, SCALE)
        assert torch.equal(output, roi_pool(features, rois[:count], 7, SCALE))
        assert output.stride() == roi_pool(features, rois[:count], 7, SCALE).stride()
        output.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": [1.0]}, TypeError, "input: expected a torch.Tensor, got list"),
        ({"input": torch.zeros(2, 3, 4, 4).long()}, TypeError, "input: expected float16"),
        ({"input": torch.zeros(3, 4, 4)}, ValueError, r"input: expected shape \[N, C, H, W\]"),
        ({"boxes": torch.zeros(2, 4)}, ValueError, r"boxes: expected shape \[K, 5\]"),
        ({"boxes": [torch.zeros(2, 5)]}, ValueError, r"boxes\[0\]: expected shape \[L, 4\]"),
        ({"boxes": []}, ValueError, "boxes: expected a tensor for each image"),
        ({"boxes": torch.zeros(2, 5).double()}, TypeError, "boxes: expected the dtype of input"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 1, 1]])}, ValueError, "batch index from 0 to 1"),
        ({"boxes": torch.tensor([[-1.0, 0, 0, 1, 1]])}, ValueError, "got -1"),
        ({"boxes": torch.zeros(2, 5, device="meta")}, ValueError, "boxes: expected the device"),
        ({"output_size": 0}, ValueError, "output_size: expected a positive int"),
        ({"output_size": (1, 2, 3)}, ValueError, "output_size"),
        ({"spatial_scale": float("nan")}, ValueError, "spatial_scale: expected a positive"),
        ({"spatial_scale": -1.0}, ValueError, "spatial_scale"),
    ],
)
def test_bad_arguments(change, error, message):
    good = {
        "input": torch.zeros(2, 3, 4, 4), "boxes": torch.zeros(2, 5), "output_size": 2,
        "spatial_scale": 1.0,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        roi_pool(**{**good, **change})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bin_of_nans_only_gives_the_lowest_finite_value(dtype, layout):
    features = torch.full((1, 40, 4, 4), torch.nan, dtype=dtype).to(memory_format=layout)
    rois = torch.tensor([[0.0, 0, 0, 3, 3]], dtype=torch.promote_types(dtype, torch.float32))
    pooled = roi_pool(features, rois, 2)
    assert (pooled == torch.finfo(dtype).min).all()
