"""nms's CUDA kernels against the CPU's: the same rows, bit for bit."""

import pytest
import torch

from fastrpn import ops

from . import harness

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_scene(batch: int, n: int, seed: int, dtype=torch.float32, crowd: float = 60.0):
    """Boxes [batch, n, 4] in a square of `crowd` pixels and scores [batch, n] with many ties."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(batch, n, 2, generator=generator) * crowd
    sides = torch.rand(batch, n, 2, generator=generator) * 20 + 5
    scores = torch.randint(0, max(n // 2, 2), (batch, n), generator=generator) / n
    return torch.cat([corners, corners + sides], dim=2).to(dtype), scores.to(dtype)


def run_both(boxes, scores, iou_threshold, max_output, seeds=3, is_sorted=False, **options):
    """The harness's (indices, counts) after checking them against the CPU operator's."""
    expected = ops.nms_padded(boxes, scores, iou_threshold, max_output, **options)
    inputs = {name: value for name, value in options.items() if value is not None}
    outputs = harness.run(
        "nms",
        boxes=boxes,
        scores=scores,
        iou_threshold=iou_threshold,
        max_output=max_output,
        seeds=seeds,
        is_sorted=is_sorted,
        **inputs,
    )
    assert torch.equal(outputs["indices"], expected[0])
    assert torch.equal(outputs["kept"], expected[1])
    return outputs["indices"], outputs["kept"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n", [(1, 1), (2, 63), (1, 65), (3, 300)])
def test_equals_the_cpu(batch, n, dtype):
    boxes, scores = random_scene(batch, n, seed=n, dtype=dtype)
    _, kept = run_both(boxes, scores, 0.5, n)
    assert n < 60 or (kept < n).all()


def test_several_chunks_and_sweeps():
    # More than one chunk of 4096 boxes.
    boxes, scores = random_scene(1, 5000, seed=1, crowd=600.0)
    _, kept = run_both(boxes, scores, 0.3, 5000, seeds=1)
    assert kept[0] > 300
    run_both(boxes, scores, 0.3, 40, seeds=1)  # the first chunk, a small one, ends the search
    _, kept = run_both(boxes, scores, 0.01, 300, seeds=1)  # several that grow
    assert kept[0] == 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_hides_no_box_from_a_sweep(dtype):
    # A first chunk of 192 that does not fill the output, and then boxes of which half have a NaN.
    boxes, scores = random_scene(64, 512, seed=3, dtype=dtype, crowd=40.0)
    scores = torch.linspace(1, 0, 512, dtype=dtype).repeat(64, 1)
    boxes[:, 192::2, 0] = float("nan")
    run_both(boxes, scores, 0.3, 48, seeds=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_are_sorted(dtype):
    # Too many to be ranked by counting; few take part, for the sake of time.
    boxes, scores = random_scene(2, 4200, seed=6, dtype=dtype)
    run_both(boxes, scores, 0.5, 4200, seeds=1, counts=torch.tensor([90, 60]))


@pytest.mark.parametrize(
    "batch, iou_threshold, with_groups, dtype",
    [
        (2, 0.4, False, torch.float32),
        (1, 0.2, True, torch.float64),
        (1, -0.5, False, torch.float32),
    ],
)
def test_sweeps_in_the_order_of_positions(batch, iou_threshold, with_groups, dtype):
    # So many rows that they are sorted by position, too; few take part, for the sake of time.
    boxes, scores = random_scene(batch, 16_400, seed=5, dtype=dtype, crowd=900.0)
    boxes[0, 17, 0] = float("nan")
    groups = torch.randint(-1, 1, (batch, 16_400)) * 2**33 if with_groups else None
    counts = torch.tensor([4300, 200])[:batch]
    run_both(boxes, scores, iou_threshold, 16_400, seeds=1, counts=counts, groups=groups)


@pytest.mark.parametrize(
    "batch, n, options",
    [
        (3, 300, {}),
        (2, 200, {"counts": torch.tensor([150, 0]), "score_threshold": 0.2}),
        (1, 5000, {}),
        (1, 16500, {"score_threshold": 0.1}),
    ],
)
def test_sorted_rows_are_decided_as_they_come(batch, n, options):
    boxes, scores = random_scene(batch, n, seed=n, crowd=3 * n**0.5)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
    scores[:, 3::7] = 0.0  # take no part where there is a threshold, wherever they are
    if "score_threshold" not in options:
        scores, _ = scores.sort(dim=1, descending=True, stable=True)
    seeds = 3 if n < 1000 else 1
    _, kept = run_both(boxes, scores, 0.4, n, seeds=seeds, is_sorted=True, **options)
    assert kept[0] > 20


def test_chains_of_suppression():
    # Each box is suppressed by the one before it alone: the longest chain there can be.
    x = torch.arange(200.0)
    boxes = torch.stack([x, 0 * x, x + 2.5, 0 * x + 1], dim=1)[None]
    _, kept = run_both(boxes, -x[None], 0.4, 200)
    assert kept[0] == 100


def test_groups_do_not_see_each_other():
    boxes, scores = random_scene(2, 200, seed=2)
    groups = torch.randint(-(2**40), 2**40, (3,))[torch.randint(0, 3, (2, 200))]
    _, with_groups = run_both(boxes, scores, 0.4, 200, groups=groups)
    _, without = run_both(boxes, scores, 0.4, 200)
    assert (with_groups > without).all()


def same_code(count: int) -> torch.Tensor:
    """The first numbers that the kernels' group_code gives one code."""
    codes = (torch.arange(5000 * count) * -0x61C8864680B583EB) >> 56
    return torch.nonzero(codes == 0)[:count, 0]


@pytest.mark.parametrize(
    "groups, dtype, options",
    [
        (torch.randint(0, 80, (2, 4200)) * 2**40 - 2**45, torch.float32, {}),
        (torch.arange(4200).flip(0)[None], torch.float64, {}),  # one box each
        (torch.randint(0, 300, (1, 4200)), torch.bfloat16, {"max_output": 1024}),
        (same_code(60)[torch.arange(4200) % 60][None], torch.float16, {"iou_threshold": 0.1}),
        # Of one group half the boxes, more than one block decides.
        (torch.randint(-99, 100, (2, 4200)).clamp(min=0), torch.float64, {"score_threshold": 0.1}),
        (torch.randint(-99, 100, (1, 4200)).clamp(min=0), torch.float32, {"max_output": 1100}),
        (torch.full((1, 4200), -5), torch.float32, {"iou_threshold": 0.0}),
    ],
)
def test_groups_of_many_boxes_are_segments(groups, dtype, options):
    boxes, scores = random_scene(*groups.shape, seed=8, dtype=dtype, crowd=150.0)
    boxes[0, 7::90, 1] = float("nan")
    scores[0, :300:100] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    options = {"iou_threshold": 0.5, "max_output": 4200, **options}
    counts = torch.tensor([4200, 2500])[: len(groups)]
    _, kept = run_both(boxes, scores, seeds=1, groups=groups, counts=counts, **options)
    assert kept.min() > 50


def test_counts_scores_and_max_output_end_the_search():
    boxes, scores = random_scene(4, 150, seed=3)
    counts = torch.tensor([0, 150, 70, 1])
    run_both(boxes, scores, 0.5, 20, counts=counts, score_threshold=0.1)
    run_both(boxes, scores, 0.5, 0, seeds=1)
    run_both(boxes, scores, 0.9, 1, seeds=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iou_threshold", [-0.5, 0.0, 1 / 3, 0.7, 1.0])
def test_thresholds_that_pairs_hit_exactly(iou_threshold, dtype):
    grid = torch.arange(6.0)
    x, y = torch.meshgrid(grid, grid, indexing="ij")
    boxes = torch.stack([x, y, x + 2, y + 2], dim=2).reshape(1, 36, 4).repeat(1, 3, 1).to(dtype)
    scores = torch.linspace(1, 0, 108, dtype=dtype)[None]
    run_both(boxes, scores, iou_threshold, 108)


def test_nan_infinite_and_degenerate_numbers():
    boxes, scores = random_scene(1, 80, seed=4)
    inf, nan = float("inf"), float("nan")
    boxes[0, 3] = torch.tensor([nan, 0, 5, 5])
    boxes[0, 7] = torch.tensor([-inf, -inf, inf, inf])
    boxes[0, 9] = torch.tensor([5.0, 5, 5, 5])
    boxes[0, 11] = torch.tensor([9.0, 9, 2, 2])
    scores[0, :5] = torch.tensor([nan, inf, -inf, -0.0, 0.0])
    run_both(boxes, scores, 0.5, 80)


@pytest.mark.parametrize("batch, n", [(0, 5), (2, 0)])
def test_nothing_to_do(batch, n):
    indices, kept = run_both(torch.zeros(batch, n, 4), torch.zeros(batch, n), 0.5, 3)
    assert (indices == -1).all() and (kept == 0).all()


def workspace_bytes(batch, n, dtype=torch.float32):
    request = {"boxes": torch.zeros(0, dtype=dtype), "batch": batch, "n": n}
    return harness.run("nms", **request)["workspace_bytes"].item()


def test_the_workspace_is_bounded():
    masks = 32 << 20
    assert workspace_bytes(1, 100_000) <= 64 << 20
    assert workspace_bytes(1, 1_000_000) <= 128 << 20
    assert workspace_bytes(100, 4096) <= 100 * 4096 * 80 + masks
    assert workspace_bytes(3, 20_000, torch.float64) <= 3 * 20_000 * 100 + masks


def test_sizes_do_not_overflow():
    one = workspace_bytes(1, 1_000_000)
    assert 2**32 < 90 * one < workspace_bytes(100, 1_000_000)
