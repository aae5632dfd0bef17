"""Names, presets and options of models, and what is refused."""

import pytest
import torch

from fastrpn.models import PRESETS, ModelConfig, faster_rcnn


def test_unknown_names():
    with pytest.raises(ValueError, match="name must be one of vgg16, .*, tiny, .*, got 'alexnet'"):
        faster_rcnn("alexnet", 21)
    with pytest.raises(ValueError, match="preset must be one of .* got 'coco'"):
        faster_rcnn("tiny", 21, "coco")
    with pytest.raises(ValueError, match=r"unknown model option\(s\): nms"):
        faster_rcnn("tiny", 21, nms=0.5)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        faster_rcnn("tiny", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": "abc"}, "min_size must be int, got 'abc'"),
        ({"min_size": None}, "min_size must be int, got None"),
        ({"max_size": [1, 2]}, r"max_size must be int \| None, got \[1, 2\]"),
        ({"bgr": "yes"}, "bgr must be bool, got 'yes'"),
        ({"anchor_sizes": [["large"]]}, r"anchor_sizes\[0\]\[0\] must be float, got 'large'"),
        ({"box_weights": [1, 2]}, r"box_weights must be tuple\[.*\], got \[1, 2\]"),
        ({"freeze_below": 1}, "freeze_below: tiny has no use for it, got 1"),
        ({"box_dropout": 0.5}, "box_dropout: tiny has no use for it, got 0.5"),
        ({"backbone_norm": "frozen"}, "backbone_norm: tiny has no use for it"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        faster_rcnn("tiny", 2, **options)


def test_options_from_text_become_numbers():
    config = ModelConfig(min_size="300", rpn_min_size="1e-3", anchor_sizes=[[16], [32]])
    assert (config.min_size, config.rpn_min_size) == (300, 0.001)
    assert config.anchor_sizes == ((16.0,), (32.0,))


def test_the_three_presets():
    paper, caffe, vision = (PRESETS[n] for n in ("paper", "py-faster-rcnn", "torchvision"))
    assert (paper.rpn_normalizer, paper.rpn_box_weight) == ("paper", 10.0)
    assert (caffe.rpn_normalizer, caffe.rpn_smooth_l1_beta) == ("sampled", 1 / 9)
    assert (caffe.rpn_pre_nms_top_n_train, caffe.rpn_pre_nms_top_n_test) == (12000, 6000)
    assert (paper.rpn_post_nms_top_n_train, paper.rpn_post_nms_top_n_test) == (2000, 300)
    assert (paper.min_size, caffe.max_size, vision.min_size) == (600, 1000, 800)


IMAGES = [torch.rand(3, 96, 120, generator=torch.Generator().manual_seed(0))]


def seeded(**options):
    torch.manual_seed(0)
    return faster_rcnn("tiny", 3, **options).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"box_score_threshold": 0.01, "detections_per_image": 7},
        {"min_size": 96, "max_size": 120, "size_divisible": 64},
        {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.5, 0.6, 0.7), "bgr": True},
        {"anchor_sizes": ((20.0, 30.0, 40.0, 50.0),), "anchor_ratios": (0.5, 1.0, 1.5)},
        {"anchor_convention": "py-faster-rcnn"},
        {"anchor_shapes": ([(20.0 + i, 30.0) for i in range(12)],)},
        {"rpn_post_nms_top_n_test": 9, "rpn_nms_threshold": 0.3, "rpn_min_size": 12.0},
        {"rpn_min_size": 40.0, "rpn_min_size_original": True},
        {"roi_op": "roi_align", "roi_aligned": True, "roi_sampling_ratio": 0},
        {"box_weights": (5.0, 5.0, 2.0, 2.0), "box_nms_threshold": 0.1},
    ],
)
def test_a_change_of_the_config_acts_on_every_part(options):
    options = {"box_score_threshold": 0.02, **options}
    changed = seeded()
    with torch.inference_mode():  # what follows the rules must not be bound to this mode
        changed.config = changed.config.override(**options)
    built = seeded(**options)
    assert changed.config == built.config
    with torch.no_grad():
        expected, found = built(IMAGES)[0], changed(IMAGES)[0]
    for name in expected:
        assert torch.equal(found[name], expected[name])
    target = {"boxes": torch.tensor([[5.0, 5, 60, 70]]), "labels": torch.tensor([1])}
    losses = []
    for model in (built, changed):
        torch.manual_seed(1)
        losses.append(model.train()(IMAGES, [target]))
    assert losses[0] == losses[1]


def test_the_score_threshold_acts():
    model = seeded(box_score_threshold=0.9)
    counts = []
    with torch.no_grad():
        counts.append(len(model(IMAGES)[0]["scores"]))
        model.config = model.config.override(box_score_threshold=0.01)
        counts.append(len(model(IMAGES)[0]["scores"]))
    assert counts[0] == 0 < counts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_ratios": (1.0,)}, "config has 4 anchors at a position, .* built for 12"),
        ({"rpn_levels": 2, "anchor_sizes": ((1,) * 4,) * 2}, "has 2 RPN levels, .* built for 1"),
        ({"roi_levels": 2}, "roi_pool pools from one level"),
        ({"roi_size": 9}, "roi_size 7 is built into the network, got 9"),
        ({"box_dropout": 0.5}, "box_dropout 0.0 is built into the network, got 0.5"),
        ({"freeze_below": 1}, "freeze_below 3 is built into the network, got 1"),
    ],
)
def test_a_config_for_another_network_changes_nothing(options, message):
    model = seeded()
    config = model.config
    with pytest.raises(ValueError, match=message):
        model.config = config.override(**options, box_score_threshold=0.9)
    for part in (model, model.transform, model.rpn, model.roi_head):
        assert part.config is config
