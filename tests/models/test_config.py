"""Names, presets and options of models, and what is refused."""

import pytest

from fastrpn.models import PRESETS, ModelConfig, faster_rcnn


def test_unknown_names():
    with pytest.raises(ValueError, match="name must be one of vgg16, .*, tiny, got 'alexnet'"):
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
