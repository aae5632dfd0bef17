"""roi_align's CUDA kernels against torchvision, and bit for bit against the CPU's."""

import pytest
import torch
import torchvision

from fastrpn import ops

from . import harness
from .rois import FORWARD_BLOCKS, random_rois, raw

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def random_features(shape, dtype, layout) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).contiguous(memory_format=layout)


def torchvision_roi_align(levels, rois, roi_levels, output_size, scales, sampling_ratio, aligned):
    """torchvision's operator on each RoI's level, in float64."""
    shape = (len(rois), levels[0].shape[1], *output_size)
    output = torch.zeros(shape, dtype=torch.float64)
    for level, (features, scale) in enumerate(zip(levels, scales, strict=True)):
        chosen = torch.where(roi_levels == level)[0]
        pooled = torchvision.ops.roi_align(
            features, rois[chosen].double(), output_size, scale, sampling_ratio, aligned
        )
        output = output.index_put((chosen,), pooled)
    return output


def run_both(
    levels,
    rois,
    roi_levels=None,
    output_size=(3, 2),
    scales=(0.25,),
    sampling_ratio=2,
    aligned=True,
    seeds=3,
    misalign=0,
    with_torchvision=True,
):
    """Forward and backward, against the CPU bit for bit and against torchvision up to rounding."""
    dtype, channels_last = levels[0].dtype, not levels[0].is_contiguous()
    batch, channels = levels[0].shape[:2]
    common = {
        "rois": rois,
        "heights": torch.tensor([x.shape[2] for x in levels]),
        "widths": torch.tensor([x.shape[3] for x in levels]),
        "scales": torch.tensor(scales, dtype=torch.float64),
        "batch": batch,
        "channels": channels,
        "pooled_height": output_size[0],
        "pooled_width": output_size[1],
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "channels_last": channels_last,
        "seeds": seeds,
        "misalign": misalign,
    }
    if roi_levels is not None:
        common["roi_levels"] = roi_levels.int()
    else:
        roi_levels = torch.zeros(len(rois))
    features = {f"features{i}": raw(x) for i, x in enumerate(levels)}
    output = harness.run("roi_align", **features, **common)["output"]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    cpu_levels = None if "roi_levels" not in common else common["roi_levels"]
    on_cpu = torch.ops.fastrpn.roi_align(
        levels, rois, cpu_levels, list(scales), *output_size, sampling_ratio, aligned
    )
    assert torch.equal(output, raw(on_cpu))
    pooled = on_cpu

    grad = torch.randn(on_cpu.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad = grad.contiguous(memory_format=layout)
    outputs = harness.run("roi_align", grad_output=raw(grad), **common)
    sizes = [[x.shape[d] for x in levels] for d in (2, 3)]
    on_cpu = torch.ops.fastrpn.roi_align_backward(
        grad, rois, cpu_levels, list(scales), sampling_ratio, aligned, batch, *sizes, channels_last
    )
    for i, gradient in enumerate(on_cpu):
        assert torch.equal(outputs[f"grad_features{i}"], raw(gradient))
    if not with_torchvision:
        return

    wide = [x.double().requires_grad_() for x in levels]
    expected = torchvision_roi_align(
        wide, rois, roi_levels, output_size, scales, sampling_ratio, aligned
    )
    # Coordinates of some tens of cells are rounded, too.
    tolerance = {"rtol": 16 * torch.finfo(dtype).eps, "atol": 64 * torch.finfo(dtype).eps}
    torch.testing.assert_close(pooled.double(), expected.detach(), **tolerance)
    gradients = torch.autograd.grad(expected, wide, grad.double())
    for actual, gradient in zip(on_cpu, gradients, strict=True):
        torch.testing.assert_close(actual.double(), gradient, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_torchvision(dtype, layout):
    features = random_features((2, 16, 16, 20), dtype, layout)
    # bfloat16 and float16 RoIs would be rounded; float32 RoIs go beside half features.
    rois = random_rois(30, 2, torch.promote_types(dtype, torch.float32))
    run_both([features], rois)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
def test_sampling_and_alignment(sampling_ratio, aligned):
    features = random_features((2, 4, 16, 20), torch.float32, torch.channels_last)
    rois = random_rois(30, 2, torch.float32)
    run_both([features], rois, sampling_ratio=sampling_ratio, aligned=aligned)


def test_levels_of_a_pyramid():
    sizes = [(16, 20), (8, 10), (9, 3)]
    levels = [random_features((2, 8, *s), torch.float32, torch.channels_last) for s in sizes]
    rois = random_rois(30, 2, torch.float32)
    roi_levels = torch.arange(30) % 3
    run_both(levels, rois, roi_levels, scales=(0.25, 0.125, 0.0625))


@pytest.mark.parametrize("count", [0, 1, 700])
def test_backward_groups_rois_by_image_and_level(count):
    """In any order, more than a block has threads; maps without RoIs, RoIs without a map."""
    generator = torch.Generator().manual_seed(count)
    levels = [random_features((5, 3, *s), torch.float32, LAYOUTS[0]) for s in [(16, 20), (8, 10)]]
    rois = random_rois(count, 4, torch.float32)
    rois[rois[:, 0] == 1, 0] = 4.0  # nobody reads image 1
    roi_levels = torch.randint(0, 2, (count,), generator=generator)
    roi_levels[rois[:, 0] == 3] = 0  # nor level 1 of image 3
    run_both(levels, rois, roi_levels, scales=(0.25, 0.125), output_size=(2, 2))
    rois[::7, 0] = torch.tensor([-1.0, 5.0, float("nan"), 1e20])[torch.arange(len(rois[::7])) % 4]
    roi_levels[3::7] = torch.tensor([-1, 2])[torch.arange(len(roi_levels[3::7])) % 2]
    options = {"scales": (0.25, 0.125), "output_size": (2, 2), "seeds": 1}
    run_both(levels, rois, roi_levels, **options, with_torchvision=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_that_fill_no_pack_or_block(layout):
    features = random_features((1, 131, 9, 9), torch.float32, layout)
    run_both([features], random_rois(5, 1, torch.float32), seeds=1)


@pytest.mark.parametrize("batch", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_with_tiles_of_four_and_eight_warps(batch, dtype, layout):
    """Backward takes larger tiles where 1,024 blocks are left: 32 images of 2 x 8 tiles, twice."""
    levels = [random_features((batch, 33, *s), dtype, layout) for s in [(15, 57), (3, 7)]]
    rois = random_rois(90, batch, torch.promote_types(dtype, torch.float32))
    options = {"scales": (0.25, 0.125), "output_size": (4, 5), "seeds": 1}
    run_both(levels, rois, torch.arange(90) % 2, **options, with_torchvision=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count, channels", FORWARD_BLOCKS)
def test_forward_blocks_with_slices_of_channels(count, channels, layout):
    """Slices of 32, 16 and 8 packs, the last one not full."""
    features = random_features((1, channels, 9, 9), torch.float32, layout)
    options = {"output_size": (2, 1), "seeds": 1, "with_torchvision": False}
    run_both([features], random_rois(count, 1, torch.float32), **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_bins_than_a_forward_block_has_threads(layout):
    features = random_features((1, 12, 30, 30), torch.float32, layout)
    run_both([features], random_rois(4, 1, torch.float32), output_size=(17, 19), seeds=1)


@pytest.mark.parametrize("sampling_ratio", [204, 205])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_taps_that_just_fit_a_block_and_that_do_not(sampling_ratio, layout):
    """Of 3 + 2 bins with 408 taps of 8 bytes and a count of 4 each: 16,340 of 16,384 bytes."""
    features = random_features((1, 4, 50, 50), torch.float32, layout)
    rois = torch.tensor([[0.0, 3, 3, 170, 190], [0, 180, 190, 11, 20], [0, -400, -300, 700, 800]])
    run_both([features], rois, sampling_ratio=sampling_ratio, with_torchvision=False)


def test_memory_that_is_not_16_byte_aligned():
    features = random_features((1, 8, 16, 20), torch.float32, torch.channels_last)
    run_both([features], random_rois(6, 1, torch.float32), seeds=1, misalign=1)


def test_huge_rois_read_each_cell_once():
    features = random_features((1, 4, 16, 20), torch.float64, torch.channels_last)
    rois = torch.tensor([[0, -900.0, -700, 1000, 800], [0, 3, 3, 70, 60]], dtype=torch.float64)
    run_both([features], rois, sampling_ratio=0, seeds=1)


def test_bad_rois_give_zeros_and_no_gradient():
    inf, nan = float("inf"), float("nan")
    features = random_features((1, 4, 16, 20), torch.float32, torch.channels_last)
    rois = random_rois(6, 1, torch.float32)
    rois[0, 1], rois[1, 3] = nan, inf
    rois[2:5, 0] = torch.tensor([-1.0, 1.0, 1e20])
    common = {
        "heights": torch.tensor([16]),
        "widths": torch.tensor([20]),
        "scales": torch.tensor([0.25], dtype=torch.float64),
        "batch": 1,
        "channels": 4,
        "pooled_height": 2,
        "pooled_width": 2,
        "sampling_ratio": 0,
        "aligned": 1,
        "channels_last": 1,
    }
    output = harness.run("roi_align", features0=raw(features), rois=rois, **common)["output"]
    assert (output[: 5 * 16] == 0).all() and (output[5 * 16 :] != 0).any()
    gradients = [
        harness.run("roi_align", grad_output=grad.flatten(), rois=some, **common)
        for grad, some in [(torch.ones(6, 16), rois), (torch.ones(1, 16), rois[5:])]
    ]
    assert torch.equal(gradients[0]["grad_features0"], gradients[1]["grad_features0"])
    # A RoI whose samples would not fit an integer.
    rois[5, 1:] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    harness.run("roi_align", features0=raw(features), rois=rois, **common)


def test_rois_of_no_image_give_zeros():
    sizes = {"heights": torch.tensor([8]), "widths": torch.tensor([9]), "batch": 0, "channels": 4}
    sizes |= {"pooled_height": 2, "pooled_width": 2, "scales": torch.ones(1, dtype=torch.float64)}
    options = {"aligned": 1, "channels_last": 1, "rois": torch.tensor([[0.0, 1, 1, 5, 5]])}
    for sampling_ratio in (2, 0):
        options["sampling_ratio"] = sampling_ratio
        found = harness.run("roi_align", features0=torch.zeros(0), **sizes, **options)
        assert torch.equal(found["output"], torch.zeros(16))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_rois(layout):
    features = random_features((1, 4, 8, 8), torch.float32, layout)
    run_both([features], torch.zeros(0, 5), seeds=3)


@pytest.mark.parametrize("sampling_ratio", [4, 8, 16])
def test_reversed_rois(sampling_ratio):
    """With `aligned`, x2 < x1 makes samples run backwards: each meets cells it met before."""
    features = random_features((1, 4, 50, 50), torch.float32, torch.channels_last)
    whole, part = [0.0, 199, 199, 1, 1], [0, 150, 20, 30, 90]
    rois = torch.tensor([whole, [0, 1, 199, 199, 1], part, [0, 230, -30, -40, 260.0]])
    options = {"sampling_ratio": sampling_ratio, "output_size": (7, 7)}
    run_both([features], rois, **options)


def test_huge_rois_whose_bins_share_many_cells():
    """Coordinates that far away are 16 pixels apart, so that neighbouring bins overlap."""
    features = random_features((1, 1, 67, 67), torch.float32, torch.channels_last)
    low, high = -398244000.0, 33187024.0
    rois = torch.tensor([[0, low, low, high, high]] * 3)
    options = {"scales": (1.0,), "sampling_ratio": 0, "output_size": (13, 13)}
    run_both([features], rois, with_torchvision=False, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nan_and_infinite_features(dtype):
    features = random_features((1, 8, 9, 11), dtype, torch.channels_last)
    features[0, :, 4, 5] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1] * 2)
    rois = torch.tensor([[0.0, 2, 2, 40, 32], [0, 30, 4, 44, 12]])
    output = harness.run(
        "roi_align",
        features0=raw(features),
        rois=rois,
        heights=torch.tensor([9]),
        widths=torch.tensor([11]),
        scales=torch.tensor([0.25], dtype=torch.float64),
        **{"batch": 1, "channels": 8, "pooled_height": 3, "pooled_width": 2},
        **{"sampling_ratio": 2, "aligned": True, "channels_last": True, "seeds": 3},
    )["output"]
    expected = raw(ops.roi_align(features, rois, (3, 2), 0.25, 2, True))
    assert expected.isnan().any() and expected.isinf().any()
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)


def test_sizes_that_no_grid_can_have_are_refused():
    """A grid has at most 65,535 blocks in y and in z."""
    one = {"heights": torch.tensor([1]), "widths": torch.tensor([1]), "channels": 1, "batch": 1}
    one |= {"scales": torch.ones(1, dtype=torch.float64), "sampling_ratio": 2, "aligned": 1}
    one |= {"rois": torch.zeros(1, 5), "channels_last": 0, "pooled_height": 1, "pooled_width": 1}
    large = one | {"pooled_height": 4096, "pooled_width": 4097}
    with pytest.raises(harness.HarnessError, match="more than 2\\^24 bins of a RoI"):
        harness.run("roi_align", features0=torch.zeros(1).half(), **large)
    wide = one | {"channels": 2_097_121}
    with pytest.raises(harness.HarnessError, match="more than 2097120 channels"):
        harness.run("roi_align", features0=torch.zeros(2_097_121).half(), **wide)
    many = one | {"batch": 65_536}
    with pytest.raises(harness.HarnessError, match="more than 65535 images"):
        harness.run("roi_align", grad_output=torch.zeros(1).half(), **many)
