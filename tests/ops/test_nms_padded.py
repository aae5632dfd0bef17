"""nms_padded: the oracle's indices, exactly, and those of nms where there are many boxes."""

import math

import pytest
import torch
from nms_cases import DTYPES, KINDS, random_boxes, random_scores

from fastrpn import ops
from fastrpn.ops import reference


def padded_case(seed: int, kind: str = "jitter", dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(120, generator, kind) for _ in range(3)]).to(dtype)
    scores = torch.stack([random_scores(120, generator, "not finite") for _ in range(3)]).to(dtype)
    groups = torch.randint(-1, 2, (3, 120), generator=generator)
    return boxes, scores, groups


@pytest.mark.parametrize("max_output", [0, 1, 7, 120, 500])
@pytest.mark.parametrize("score_threshold", [None, 0.0, math.inf])
def test_equals_the_oracle(max_output, score_threshold):
    for seed in range(5):
        boxes, scores, groups = padded_case(seed)
        for options in (
            {},
            {"groups": groups},
            {"counts": torch.tensor([0, 60, 1000])},
            {"counts": torch.tensor([-1, 120, 1], dtype=torch.int32), "groups": groups},
        ):
            options["score_threshold"] = score_threshold
            indices, counts = ops.nms_padded(boxes, scores, 0.5, max_output, **options)
            wanted = reference.nms_padded(boxes, scores, 0.5, max_output, **options)
            assert torch.equal(indices, wanted[0]) and torch.equal(counts, wanted[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_and_kind_of_box_equals_the_oracle(kind, dtype):
    boxes, scores, groups = padded_case(KINDS.index(kind), kind, dtype)
    for options in ({}, {"groups": groups}, {"score_threshold": 0.1}):
        ours = ops.nms_padded(boxes, scores, 0.4, 50, **options)
        assert all(map(torch.equal, ours, reference.nms_padded(boxes, scores, 0.4, 50, **options)))


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_boxes_it_is_the_head_of_nms(kind, simd_level):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    boxes = random_boxes(6000, generator, kind).float()
    scores = random_scores(6000, generator, "ties").float()
    expected = ops.nms(boxes, scores, 0.5)
    for width in (1, 600, 1400, 1600, 5000):
        indices, counts = ops.nms_padded(boxes[None], scores[None], 0.5, width)
        assert counts.item() == min(width, len(expected))
        assert torch.equal(indices[0, : counts.item()], expected[:width])


@pytest.mark.parametrize("with_groups", [False, True])
@pytest.mark.parametrize("kind", ["plain", "far", "not finite"])
def test_images_share_threads(kind, with_groups, simd_level, num_threads, plainly):
    generator = torch.Generator().manual_seed(2)
    boxes = torch.stack([random_boxes(6000, generator, kind) for _ in range(5)]).float()
    scores = torch.stack([random_scores(6000, generator, "ties") for _ in range(5)]).float()
    counts = torch.tensor([6000, 0, 5000, 6000, 1])
    groups = torch.randint(0, 3, (5, 6000), generator=generator) if with_groups else None

    def suppress():
        return ops.nms_padded(boxes, scores, 0.5, 2000, counts=counts, groups=groups)

    indices, kept = suppress()
    assert kept.max() > 128  # so that the grid is searched
    assert all(map(torch.equal, (indices, kept), plainly(suppress)))


def test_no_boxes():
    indices, counts = ops.nms_padded(torch.zeros(1, 0, 4), torch.zeros(1, 0), 0.5, 2)
    assert indices.tolist() == [[-1, -1]] and counts.tolist() == [0]
    indices, counts = ops.nms_padded(torch.zeros(0, 0, 4), torch.zeros(0, 0), 0.5, 2)
    assert indices.shape == (0, 2) and counts.shape == (0,)


def test_not_contiguous():
    boxes, scores, groups = padded_case(2)
    wide = torch.cat([boxes, scores[..., None]], dim=-1).transpose(0, 1).contiguous()
    ours = ops.nms_padded(
        wide[..., :4].transpose(0, 1), wide[..., 4].t(), 0.5, 30,
        groups=groups.t().contiguous().t(), counts=torch.tensor([100, 0, 7, 0, 120])[::2],
    )  # fmt: skip
    counts = torch.tensor([100, 7, 120])
    wanted = ops.nms_padded(boxes, scores, 0.5, 30, groups=groups, counts=counts)
    assert all(map(torch.equal, ours, wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_passes_opcheck(dtype):
    boxes, scores, groups = padded_case(0, dtype=dtype)
    torch.library.opcheck(
        torch.ops.fastrpn.nms_padded,
        (boxes, scores, 0.5, 30, torch.tensor([120, 60, 0]), groups, 0.1),
    )
    torch.library.opcheck(torch.ops.fastrpn.nms_padded, (boxes, scores, 0.5, 200, None, None, None))


def test_compiles_without_graph_breaks():
    boxes, scores, groups = padded_case(1)
    compiled = torch.compile(ops.nms_padded, fullgraph=True, backend="eager")
    ours = compiled(boxes, scores, 0.5, 20, groups=groups)
    assert all(map(torch.equal, ours, ops.nms_padded(boxes, scores, 0.5, 20, groups=groups)))


BOXES, SCORES = torch.zeros(3, 4), torch.zeros(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ops.nms_padded(BOXES, SCORES, 0.5, 1), ValueError, r"boxes.*\[3, 4\]"),
        (lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, -1), ValueError, "max_output.*-1"),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, counts=torch.ones(2).int()),
            ValueError,
            r"counts.*\[2\]",
        ),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, groups=SCORES[:, None].int()),
            ValueError,
            r"groups.*\[3, 1\]",
        ),
        (
            lambda: ops.nms_padded(BOXES[None], SCORES[None], 0.5, 1, groups=SCORES[None]),
            TypeError,
            "groups.*float32",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.7, 1e-3, 1e-9, 1e5, 1e300, -1e300, -0.2])
def test_a_score_is_compared_with_a_number_as_torch_compares(dtype, threshold):
    """The number is rounded to the dtype of the scores, so a score of 0.2 is not above 0.2."""
    near = torch.tensor([threshold, 0.0, 0.5, -1.0]).to(dtype)
    near = (
        torch.cat([near, torch.nextafter(near[:1], near.new_full((1,), 9.0))])
        if (dtype in (torch.float32, torch.float64))
        else near
    )
    corner = 10.0 * torch.arange(len(near))[:, None]
    boxes = torch.cat([corner, corner, corner + 5, corner + 5], dim=1).to(dtype)
    kept, counts = ops.nms_padded(
        boxes[None], near[None], 0.5, len(near), score_threshold=threshold
    )
    assert sorted(kept[0, : counts[0]].tolist()) == torch.where(near > threshold)[0].tolist()


@pytest.mark.parametrize("name", ["iou_threshold", "score_threshold"])
def test_a_threshold_that_is_nan_is_refused(name):
    arguments = {"iou_threshold": 0.5, "score_threshold": 0.1, name: float("nan")}
    with pytest.raises(ValueError, match=f"{name}.*nan"):
        ops.nms_padded(torch.rand(1, 3, 4), torch.rand(1, 3), max_output=2, **arguments)
    with pytest.raises(RuntimeError, match=f"{name} must not be NaN"):
        torch.ops.fastrpn.nms_padded(
            torch.rand(1, 3, 4), torch.rand(1, 3), arguments["iou_threshold"], 2, None, None,
            arguments["score_threshold"],
        )  # fmt: skip
