"""roi_pool's CUDA kernels against the CPU's, forward and backward, bit for bit."""

import pytest
import torch

from fastrpn import ops  # noqa: F401  (registers torch.ops.fastrpn)

from . import harness
from .rois import FORWARD_BLOCKS, random_rois, raw

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def random_features(shape, dtype, layout) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # Few values: many ties, so that the first maximum matters.
    values = torch.randint(-9, 9, shape, generator=generator)
    return values.to(dtype).contiguous(memory_format=layout)


def run_both(features, rois, output_size=(3, 3), scale=0.25, seeds=3, misalign=0):
    """Runs forward, with and without argmax, and backward; checks all of them against the CPU."""
    sizes = dict(zip(("batch", "channels", "height", "width"), features.shape, strict=True))
    common = {
        **sizes,
        "rois": rois,
        "pooled_height": output_size[0],
        "pooled_width": output_size[1],
        "spatial_scale": scale,
        "channels_last": not features.is_contiguous(),
        "seeds": seeds,
        "misalign": misalign,
    }
    output, argmax = torch.ops.fastrpn.roi_pool_argmax(features, rois, scale, *output_size)
    outputs = harness.run("roi_pool", features=raw(features), argmax=1, **common)
    assert torch.equal(outputs["output"], raw(output))
    assert torch.equal(outputs["argmax"], raw(argmax))
    alone = harness.run("roi_pool", features=raw(features), **common)
    assert torch.equal(alone["output"], raw(output))

    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    grad = grad.contiguous(memory_format=layout_of(features))
    grad_features = torch.ops.fastrpn.roi_pool_backward(grad, rois, argmax, scale, *sizes.values())
    outputs = harness.run("roi_pool", grad_output=raw(grad), argmax=raw(argmax), **common)
    assert torch.equal(outputs["grad_features"], raw(grad_features))
    return output


def layout_of(features):
    return torch.contiguous_format if features.is_contiguous() else torch.channels_last


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_cpu(dtype, layout):
    rois = random_rois(40, 2, torch.float32 if dtype == torch.bfloat16 else dtype)
    output = run_both(random_features((2, 16, 16, 20), dtype, layout), rois)
    assert output.count_nonzero() > 1000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_that_fill_no_pack_or_block(layout):
    features = random_features((1, 131, 9, 9), torch.float32, layout)
    run_both(features, random_rois(5, 1, torch.float32), output_size=(1, 2), seeds=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count, channels", FORWARD_BLOCKS)
def test_forward_blocks_with_slices_of_channels(count, channels, layout):
    """Slices of 32, 16 and 8 packs, the last one not full."""
    features = random_features((1, channels, 9, 9), torch.float32, layout)
    run_both(features, random_rois(count, 1, torch.float32), output_size=(2, 1), seeds=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_bins_than_a_forward_block_has_threads(layout):
    features = random_features((1, 12, 30, 30), torch.float32, layout)
    run_both(features, random_rois(4, 1, torch.float32), output_size=(17, 19), seeds=1)


def test_memory_that_is_not_16_byte_aligned():
    features = random_features((1, 8, 16, 20), torch.float32, torch.channels_last)
    run_both(features, random_rois(6, 1, torch.float32), seeds=1, misalign=1)


def test_more_rois_than_a_backward_round():
    features = random_features((1, 2, 16, 20), torch.float32, torch.channels_last)
    run_both(features, random_rois(1500, 1, torch.float32), seeds=1)


@pytest.mark.parametrize("batch", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_with_tiles_of_four_and_eight_warps(batch, dtype, layout):
    """Backward takes larger tiles where 1,024 blocks are left: 32 images of 2 x 8 tiles, twice."""
    features = random_features((batch, 33, 15, 60), dtype, layout)
    run_both(features, random_rois(90, batch, dtype), output_size=(4, 5), seeds=1)


@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_narrow_maps(width):
    features = random_features((1, 3, 40, width), torch.float32, torch.contiguous_format)
    run_both(features, random_rois(30, 1, torch.float32), scale=0.5, seeds=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bad_rois_and_nan_features(dtype):
    inf, nan = float("inf"), float("nan")
    features = random_features((1, 8, 16, 20), dtype, torch.channels_last)
    features[:, :, 2:9] = nan
    rois = random_rois(8, 1, dtype)
    rois[0, 1], rois[1, 3] = nan, inf
    rois[3, 1:] = torch.tensor([-6e4, -6e4, 6e4, 6e4])
    output = run_both(features, rois)
    assert (output[:2] == 0).all()


def test_batch_index_out_of_range_gives_zeros():
    # The CPU operator raises here; on CUDA nobody looks before the kernel does.
    features = random_features((1, 4, 16, 20), torch.float32, torch.channels_last)
    rois = random_rois(4, 1, torch.float32)
    rois[:, 0] = torch.tensor([-1.0, 1.0, 1e20, 0.0])
    outputs = harness.run(
        "roi_pool",
        features=raw(features),
        rois=rois,
        argmax=1,
        batch=1,
        channels=4,
        height=16,
        width=20,
        pooled_height=2,
        pooled_width=2,
        spatial_scale=0.25,
        channels_last=1,
    )
    assert (outputs["output"][: 3 * 16] == 0).all()
    assert (outputs["argmax"][: 3 * 16] == -1).all()
    assert (outputs["argmax"][3 * 16 :] >= 0).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_of_images_without_rois_and_rois_without_an_image(layout):
    """Image 2 of four has no RoI; every third RoI has no image, and its gradient goes nowhere."""
    features = random_features((4, 5, 16, 20), torch.float32, layout)
    rois = random_rois(60, 4, torch.float32)
    rois[rois[:, 0] == 2, 0] = 1.0
    output, argmax = torch.ops.fastrpn.roi_pool_argmax(features, rois, 0.25, 3, 3)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    grad = grad.contiguous(memory_format=layout)
    bad = torch.arange(len(rois)) % 3 == 0
    rois[bad, 0] = torch.tensor([-1.0, 4.0, float("nan"), 1e20]).repeat(5)
    outputs = harness.run(
        "roi_pool",
        grad_output=raw(grad),
        argmax=raw(argmax),
        rois=rois,
        **dict(zip(("batch", "channels", "height", "width"), features.shape, strict=True)),
        **{"pooled_height": 3, "pooled_width": 3, "spatial_scale": 0.25, "seeds": 3},
        channels_last=layout == torch.channels_last,
    )
    grad, argmax = (x[~bad].contiguous(memory_format=layout) for x in (grad, argmax))
    expected = torch.ops.fastrpn.roi_pool_backward(grad, rois[~bad], argmax, 0.25, *features.shape)
    assert torch.equal(outputs["grad_features"], raw(expected))
    assert expected[2].count_nonzero() == 0 and expected.count_nonzero() > 100


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_rois(layout):
    features = random_features((1, 4, 8, 8), torch.float32, layout)
    run_both(features, torch.zeros(0, 5), seeds=3)


def test_sizes_that_no_grid_can_have_are_refused():
    """A grid has at most 65,535 blocks in y and in z."""
    one = {"height": 1, "width": 1, "channels": 1, "batch": 1, "spatial_scale": 1}
    one |= {"rois": torch.zeros(1, 5), "channels_last": 0, "pooled_height": 1, "pooled_width": 1}
    large = one | {"pooled_height": 4096, "pooled_width": 4097}
    with pytest.raises(harness.HarnessError, match="more than 2\\^24 bins of a RoI"):
        harness.run("roi_pool", features=torch.zeros(1).half(), **large)
    wide = one | {"channels": 2_097_121}
    with pytest.raises(harness.HarnessError, match="more than 2097120 channels"):
        harness.run("roi_pool", features=torch.zeros(2_097_121).half(), **wide)
    grad = {"grad_output": torch.zeros(1).half(), "argmax": torch.zeros(1, dtype=torch.int32)}
    with pytest.raises(harness.HarnessError, match="more than 65535 images"):
        harness.run("roi_pool", **grad, **one | {"batch": 65_536})
