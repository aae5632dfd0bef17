"""MultiScaleRoIAlign: torchvision's results with all levels in one operator."""

import pytest
import torch
import torchvision
from roi_cases import LAYOUTS

from fastrpn.ops import MultiScaleRoIAlign, multiscale_roi_align, reference

NAMES = ["a", "b", "c", "d"]
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
IMAGES = [(200, 256), (180, 240)]


def pyramid(layout=torch.contiguous_format, channels=16, dtype=torch.float32):
    """Maps of strides 4 to 32 and one of stride 64 that is not pooled."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, channels, 200 // stride, 256 // stride, generator=generator)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for name, stride in zip([*NAMES, "pool"], (4, 8, 16, 32, 64), strict=True)
    }


def boxes_of_all_sizes(count=60, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    boxes = []
    for height, width in IMAGES:
        side = 2 ** (torch.rand(count, 2, generator=generator) * 8)
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
        boxes.append(torch.cat([centre - side / 2, centre + side / 2], dim=1).to(dtype))
    return boxes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [NAMES, ["b", "c"], ["c"]])
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_equals_torchvision(layout, names, sampling_ratio):
    results = []
    for module in (MultiScaleRoIAlign, torchvision.ops.MultiScaleRoIAlign):
        maps = pyramid(layout)
        pool = module(names, 7, sampling_ratio, canonical_scale=30)
        output = pool(maps, boxes_of_all_sizes(), IMAGES)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(2)))
        results.append((output.detach(), [maps[name].grad for name in names]))
    (output, grads), (expected, expected_grads) = results
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=5e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=2e-5)
        assert grad.is_contiguous(memory_format=layout)


def test_every_level_is_used():
    """The case above would prove little if all boxes fell on one level."""
    from fastrpn.ops.multiscale_roi_align import assign_levels

    levels = assign_levels(torch.cat(boxes_of_all_sizes()), 2, 5, canonical_scale=30)
    assert levels.dtype == torch.int32
    assert levels.bincount(minlength=4).min() > 5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_equals_the_oracle(layout, sampling_ratio):
    maps, boxes = pyramid(layout, dtype=torch.float64), boxes_of_all_sizes(20, torch.float64)
    leaves = [maps[name] for name in NAMES]
    pool = MultiScaleRoIAlign(NAMES, (3, 2), sampling_ratio, canonical_scale=30)
    output = pool(maps, boxes, IMAGES)
    expected = reference.multiscale_roi_align(
        leaves, boxes, (3, 2), SCALES, sampling_ratio, canonical_scale=30
    )
    torch.testing.assert_close(output, expected, rtol=1e-11, atol=1e-11)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).double()
    wanted = torch.autograd.grad(expected, leaves, weight)
    for grad, wanted_grad in zip(torch.autograd.grad(output, leaves, weight), wanted, strict=True):
        torch.testing.assert_close(grad, wanted_grad, rtol=1e-11, atol=1e-11)


def test_boxes_without_a_level_give_zeros():
    nan, inf = float("nan"), float("inf")
    odd = [[nan, 0, 9, 9], [0, 0, nan, nan], [0, 0, inf, 9], [50, 50, 10, 90], [9, 9, 9, 9]]
    boxes = [torch.tensor(odd), boxes_of_all_sizes()[1]]
    maps = pyramid()
    output = MultiScaleRoIAlign(NAMES, (7, 7), 2)(maps, boxes, IMAGES)
    assert (output[:4] == 0).all() and output[4].any()
    expected = reference.multiscale_roi_align(
        [maps[name] for name in NAMES], boxes, (7, 7), SCALES, 2
    )
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=5e-6)
    output[:4].sum().backward()
    assert all((maps[name].grad == 0).all() for name in NAMES)


def test_not_contiguous():
    maps = {name: level.detach() for name, level in pyramid(channels=24).items()}
    boxes = boxes_of_all_sizes()
    pool = MultiScaleRoIAlign(NAMES, 7, 2)
    sliced = {name: level[:, ::2] for name, level in maps.items()}
    scattered = [b.t().contiguous().t() for b in boxes]
    copied = {name: level.contiguous() for name, level in sliced.items()}
    assert torch.equal(pool(sliced, scattered, IMAGES), pool(copied, boxes, IMAGES))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_result_at_every_simd_level_and_thread_count(layout, simd_level, num_threads, plainly):
    boxes = boxes_of_all_sizes()

    def pool():
        maps = pyramid(layout)
        output = MultiScaleRoIAlign(NAMES, 7, 2, canonical_scale=30)(maps, boxes, IMAGES)
        output.square().sum().backward()
        return [output, *(maps[name].grad for name in NAMES)]

    assert all(map(torch.equal, pool(), plainly(pool)))


def test_rois_instead_of_lists_and_a_level_that_does_not_exist():
    maps, boxes = pyramid(), boxes_of_all_sizes()
    rois = torch.cat([torch.tensor([0.0] * 60 + [1.0] * 60)[:, None], torch.cat(boxes)], dim=1)
    pool = MultiScaleRoIAlign(NAMES, 7, 2)
    assert torch.equal(pool(maps, rois, IMAGES), pool(maps, boxes, IMAGES))
    inputs = [maps[name].detach() for name in NAMES]
    levels = torch.full((120,), 1, dtype=torch.int32)
    levels[:2] = torch.tensor([-1, 4])
    output = multiscale_roi_align(inputs, rois, levels, 7, SCALES, 2)
    assert (output[:2] == 0).all() and (output[2:] != 0).any()


def test_no_boxes():
    maps = pyramid()
    output = MultiScaleRoIAlign(NAMES, 7, 2)(maps, [torch.zeros(0, 4)] * 2, IMAGES)
    assert output.shape == (0, 16, 7, 7)
    output.sum().backward()
    assert all((maps[name].grad == 0).all() for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_with_float32_boxes(dtype):
    maps, boxes = pyramid(dtype=dtype), boxes_of_all_sizes()
    wide = {name: level.detach().float() for name, level in maps.items()}
    pool = MultiScaleRoIAlign(NAMES, 7, 2)
    assert torch.equal(pool(maps, boxes, IMAGES), pool(wide, boxes, IMAGES).to(dtype))


def test_gradcheck():
    generator = torch.Generator().manual_seed(3)
    inputs = [
        torch.randn(1, 2, size, size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in (8, 4)
    ]
    rois = torch.tensor([[0, 1.0, 2, 6, 7], [0, -2, 0, 9, 5]], dtype=torch.float64)
    levels = torch.tensor([0, 1], dtype=torch.int32)
    assert torch.autograd.gradcheck(
        lambda *maps: multiscale_roi_align(maps, rois, levels, 3, [1.0, 0.5], 2), inputs
    )


def test_compiles_without_a_break():
    maps, boxes = pyramid(), boxes_of_all_sizes()
    pool = MultiScaleRoIAlign(NAMES, 7, 2)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps, boxes, IMAGES), pool(maps, boxes, IMAGES))


def test_bad_arguments():
    maps, boxes = pyramid(), boxes_of_all_sizes()
    pool = MultiScaleRoIAlign(["x"], 7, 2)
    with pytest.raises(ValueError, match=r"x: expected maps named \['x'\]"):
        pool(maps, boxes, IMAGES)
    with pytest.raises(ValueError, match="image_shapes"):
        MultiScaleRoIAlign(NAMES, 7, 2)(maps, boxes, [])
    inputs = [maps["a"], maps["b"]]
    rois, levels = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match="spatial_scales: expected one for each of 2"):
        multiscale_roi_align(inputs, rois, levels, 7, [1.0])
    with pytest.raises(ValueError, match="roi_levels: needed"):
        multiscale_roi_align(inputs, rois, None, 7, [1.0, 0.5])
    with pytest.raises(ValueError, match="roi_levels: expected int32"):
        multiscale_roi_align(inputs, rois, levels.long(), 7, [1.0, 0.5])
    with pytest.raises(TypeError, match=r"inputs\[1\]: expected the dtype"):
        multiscale_roi_align([maps["a"], maps["b"].double()], rois, levels, 7, [1.0, 0.5])
    with pytest.raises(ValueError, match=r"inputs\[1\]: expected N and C"):
        multiscale_roi_align([maps["a"], maps["b"][:1]], rois, levels, 7, [1.0, 0.5])


def assert_scales(image_sizes, map_sizes, strides):
    from fastrpn.ops.multiscale_roi_align import infer_scales

    assert infer_scales(map_sizes, image_sizes) == [1 / stride for stride in strides]


def ceil_maps(height, width, strides=(4, 8, 16, 32)):
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


@pytest.mark.parametrize("long_side", [40, 64, 65, 100, 333, 640, 1333])
@pytest.mark.parametrize("short_side", [1, 2, 20, 33])
def test_scales_of_thin_images(long_side, short_side):
    strides = (4, 8, 16, 32)
    for size in ((short_side, long_side), (long_side, short_side)):
        assert_scales([size], ceil_maps(*size), strides)
        if long_side >= 100:
            assert_scales([size], ceil_maps(*size)[3:], strides[3:])


def test_scales_follow_the_largest_image_of_a_batch():
    sizes = [(20, 640), (16, 90)]
    assert_scales(sizes, ceil_maps(20, 640), (4, 8, 16, 32))
    assert_scales(sizes, ceil_maps(32, 640), (4, 8, 16, 32))  # padded to a multiple of 32
    assert_scales([(20, 640), (640, 20)], ceil_maps(640, 640), (4, 8, 16, 32))
    assert_scales([(600, 800)], [(37, 50)], (16,))  # strides that round down


@pytest.mark.parametrize("size", [(20, 640), (640, 20), (1, 320)])
def test_pools_thin_images_at_their_true_scale(size):
    height, width = ceil_maps(*size)[3]
    feature = torch.randn(1, 8, height, width, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[0.0, 0, size[1], size[0]], [0, 0, size[1] / 2, size[0] / 2]])]
    pooled = MultiScaleRoIAlign(["a"], 3, 2)({"a": feature}, boxes, [size])
    wanted = torchvision.ops.roi_align(feature, boxes, 3, 1 / 32, 2)
    torch.testing.assert_close(pooled, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_levels_of_large_small_and_half_boxes(dtype):
    from fastrpn.ops.multiscale_roi_align import assign_levels

    sides = torch.tensor([448.0, 300, 224, 112, 100, 1e-3, 30_000])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], dim=1).to(dtype)
    assert assign_levels(boxes, 2, 7).tolist() == [3, 2, 2, 1, 0, 0, 5]
    huge = torch.tensor([[0.0, 0, 1e30, 1e30], [0, 0, 1e-30, 1e-30]])
    assert assign_levels(huge, 2, 7).tolist() == [5, 0]


def test_scales_that_are_no_numbers_are_refused():
    from fastrpn.ops.multiscale_roi_align import assign_levels

    nan = float("nan")
    maps, boxes = pyramid(), boxes_of_all_sizes()
    with pytest.raises(ValueError, match="canonical_scale.*nan"):
        assign_levels(boxes[0], 2, 5, canonical_scale=nan)
    with pytest.raises(ValueError, match="canonical_level.*nan"):
        MultiScaleRoIAlign(NAMES, 7, 2, canonical_level=nan)(maps, boxes, IMAGES)
    with pytest.raises(ValueError, match="spatial_scale.*nan"):
        multiscale_roi_align([maps["a"]], torch.zeros(1, 5), None, 7, [nan])
    with pytest.raises(ValueError, match="image_shapes.*0"):
        MultiScaleRoIAlign(NAMES, 7, 2)(maps, boxes, [(0, 0)])
