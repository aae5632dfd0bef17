"""Every op's CUDA kernels against its CPU kernel, to the last bit, on scenes made to differ.

The comparison is the harness's: each of its runs ends with the CPU kernel on the same request, and
raises HarnessError where a bit differs. Here are only the requests.
"""

import pytest
import torch

from . import harness
from .scenes import DTYPES, INF, NAN, SCENES, tied_scores

scenes = pytest.mark.parametrize("scene", SCENES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# What IoUs of whole numbers hit exactly, in double or once rounded; and the ends.
THRESHOLDS = [0.3, 1 / 3, 0.5, 0.6, 0.7, 0.95, 0.0, -0.5, 1.0, 1e-50, 2.0, INF]


def make(scene: str, n: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return SCENES[scene](n, torch.Generator().manual_seed(seed)).to(dtype)


def scores_of(n: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return tied_scores(n, torch.Generator().manual_seed(seed)).to(dtype)


@scenes
@dtypes
def test_box_iou(scene, dtype):
    for n, m, misalign in [(33, 64, 0), (5, 7, 1)]:
        inputs = {"boxes1": make(scene, n, 0, dtype), "boxes2": make(scene, m, 1, dtype)}
        assert harness.run("box_iou", misalign=misalign, **inputs)["iou"].shape == (n, m)


@scenes
@dtypes
def test_nms(scene, dtype):
    boxes = torch.stack([make(scene, 70, seed, dtype) for seed in (0, 1)])
    scores = torch.stack([scores_of(70, seed, dtype) for seed in (0, 1)])
    groups = torch.randint(0, 3, (2, 70), generator=torch.Generator().manual_seed(0))
    for i, threshold in enumerate(THRESHOLDS):
        inputs = {"boxes": boxes, "scores": scores, "iou_threshold": threshold}
        if i % 3 == 1:
            inputs["groups"] = groups
        if i % 3 == 2:
            inputs |= {"counts": torch.tensor([70, 31]), "score_threshold": 0.25}
        kept = harness.run("nms", max_output=40 if i % 2 else 70, **inputs)["kept"]
        assert kept.min() >= 1


@scenes
@dtypes
@pytest.mark.parametrize("gaussian", [False, True])
def test_soft_nms(scene, dtype, gaussian):
    boxes, scores = make(scene, 50, 0, dtype), scores_of(50, 0, dtype)
    for threshold in [0.5] if gaussian else THRESHOLDS:
        for sigma in (0.5, 1e-3) if gaussian else (0.5,):
            kept = harness.run(
                "soft_nms",
                boxes=boxes,
                scores=scores,
                gaussian=gaussian,
                sigma=sigma,
                iou_threshold=threshold,
                score_threshold=0.0625,
            )["kept"]
            assert kept >= 1


def test_an_iou_of_three_tenths_is_more_than_a_threshold_of_three_tenths():
    """3/10 in float32 is 0.300000012, so the score of the smaller box decays: on both."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    outputs = harness.run(
        "soft_nms",
        boxes=boxes,
        scores=torch.tensor([0.9, 0.8]),
        gaussian=False,
        sigma=0.5,
        iou_threshold=0.3,
        score_threshold=0.001,
    )
    assert outputs["decayed"].tolist() == pytest.approx([0.9, 0.8 * 0.7])


def test_a_threshold_rounded_to_nearest_is_caught():
    mutant = harness.build_mutant(
        "soft_nms",
        "soft_nms_cuda.cu",
        "const auto decay = SoftNmsDecay<C>::of(args.method, args.sigma, args.iou_threshold);",
        "const SoftNmsDecay<C> decay{args.method, C(args.sigma), C(args.iou_threshold)};",
        "threshold_to_nearest",
    )
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    inputs = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "iou_threshold": 0.3}
    inputs |= {"gaussian": False, "sigma": 0.5, "score_threshold": 0.001}
    with pytest.raises(harness.HarnessError, match="decayed differs from the CPU kernel's"):
        harness.run(mutant, **inputs)


@scenes
@dtypes
def test_match_anchors(scene, dtype):
    anchors = make(scene, 150, 0, dtype)
    gt_boxes = torch.stack([make(scene, 9, seed, dtype) for seed in (1, 2)])
    gt_counts = torch.tensor([9, 4])
    valid = torch.rand(150, generator=torch.Generator().manual_seed(0)) < 0.8
    pairs = [(0.7, 0.3), (1 / 3, 0.3), (0.5, 0.5), (0.6, 0.1), (1.0, 0.0), (0.95, -1.0)]
    for i, (high, low) in enumerate(pairs):
        inputs = {"anchors": anchors, "gt_boxes": gt_boxes, "gt_counts": gt_counts}
        if i % 2:
            inputs["valid"] = valid
        harness.run("match_anchors", high=high, low=low, allow_low_quality=i % 3 > 0, **inputs)


@scenes
@dtypes
def test_generate_proposals(scene, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-9, 9, (2, 90), generator=generator).to(dtype)
    logits[0, 3:9] = torch.tensor([NAN, INF, -INF, 100.0, -100.0, -0.0]).to(dtype)
    deltas = (torch.randint(-2, 3, (2, 90, 4), generator=generator) / 4).to(dtype)
    for i, threshold in enumerate([0.3, 1 / 3, 0.7, 0.5, 1.0]):
        harness.run(
            "generate_proposals",
            objectness=logits,
            deltas=deltas if i % 2 else torch.zeros_like(deltas),  # exact boxes, exact IoUs
            anchors=make(scene, 90, 3, dtype),
            image_sizes=torch.tensor([[20, 30], [25, 18]]),
            anchors_per_level=torch.tensor([60, 0, 30] if i % 2 else [90]),
            pre_nms_top_n=40,
            post_nms_top_n=25 if i % 2 else 60,
            nms_threshold=threshold,
            min_size=[0.0, 1.0, 3.0, 0.1, 1e-50][i],
        )


def rois_of(scene: str, count: int, dtype: torch.dtype) -> torch.Tensor:
    image = torch.tensor([0.0, 1, 1, 0, -1, 2, NAN]).repeat(count)[:count, None]
    return torch.cat([image.to(dtype), make(scene, count, 5, dtype)], dim=1)


def features_of(shape: tuple, dtype: torch.dtype) -> torch.Tensor:
    """Flat; few values, so that maxima tie, and some that are no numbers."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(-5, 6, shape, generator=generator).double() / 7
    strange = torch.tensor([NAN, INF, -INF, -0.0, 3e38, -3e38, 1e-44]).double()
    chosen = strange[torch.randint(0, 7, shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.02, chosen, values).to(dtype)


@scenes
@dtypes
@pytest.mark.parametrize("channels_last", [False, True])
def test_roi_pool(scene, dtype, channels_last):
    batch, channels, height, width, count = 2, 6, 13, 17, 21
    common = {"batch": batch, "channels": channels, "height": height, "width": width}
    common |= {"pooled_height": 3, "pooled_width": 4, "spatial_scale": 0.6}
    common |= {"rois": rois_of(scene, count, dtype), "channels_last": channels_last}
    features = features_of((batch * channels * height * width,), dtype)
    outputs = harness.run("roi_pool", features=features, argmax=1, **common)
    grad = features_of((count * channels * 12,), dtype)
    harness.run("roi_pool", grad_output=grad, argmax=outputs["argmax"], **common)


@scenes
@dtypes
@pytest.mark.parametrize("channels_last", [False, True])
def test_roi_align(scene, dtype, channels_last):
    batch, channels, count = 2, 6, 21
    sizes = torch.tensor([[13, 17], [5, 8]])
    common = {"batch": batch, "channels": channels, "pooled_height": 3, "pooled_width": 2}
    common |= {"heights": sizes[:, 0], "widths": sizes[:, 1], "channels_last": channels_last}
    common |= {"scales": torch.tensor([0.6, 0.25], dtype=torch.float64)}
    common |= {"roi_levels": torch.tensor([0, 1, 0, 5, -1] * 5).int()[:count]}
    common |= {"rois": rois_of(scene, count, dtype)}
    features = [features_of((batch * channels * h * w,), dtype) for h, w in sizes.tolist()]
    grad = features_of((count * channels * 6,), dtype)
    for sampling_ratio, aligned in [(2, True), (0, False)]:
        options = common | {"sampling_ratio": sampling_ratio, "aligned": aligned}
        harness.run("roi_align", features0=features[0], features1=features[1], **options)
        harness.run("roi_align", grad_output=grad, **options)
