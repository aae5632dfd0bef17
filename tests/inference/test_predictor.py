"""The predictor's score threshold, and the kinds of arrays it takes."""

import cv2
import numpy as np
import pytest
import torch

from fastrpn.images import array_as_rgb, image_to_tensor, read_image
from fastrpn.inference import Predictor
from fastrpn.models import faster_rcnn

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    """Scores spread around its own threshold, 0.3."""
    torch.manual_seed(0)
    model = faster_rcnn("tiny", 3, min_size=64, max_size=96, box_score_threshold=0.3).eval()
    torch.nn.init.normal_(model.roi_head.box_predictor.cls_score.weight, std=0.3)
    return model


def scores_at(model, threshold):
    return Predictor(model, score_threshold=threshold, backend="eager")(IMAGE)["scores"]


def test_a_threshold_below_the_models_own(model):
    own, low, all_of_them = (scores_at(model, t) for t in (None, 0.1, 0.0))
    assert 0 < len(own) < len(low) <= len(all_of_them)
    assert (own > 0.3).all() and (low >= 0.1).all() and (low <= 0.3).any()
    assert torch.equal(own, model([image_to_tensor(IMAGE)])[0]["scores"])
    assert model.config.box_score_threshold == 0.3


def test_a_score_at_the_threshold_is_kept(model):
    for score in scores_at(model, 0.0)[::7].tolist():
        assert scores_at(model, score).min() == score


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability(model, threshold):
    with pytest.raises(ValueError, match=r"score_threshold must be in \[0, 1\]"):
        Predictor(model, score_threshold=threshold)


WIDE = IMAGE.astype(np.uint16) * 257
ARRAYS = {
    "grey": IMAGE[:, :, 0],
    "grey with an axis": IMAGE[:, :, :1],
    "alpha": np.dstack([IMAGE, IMAGE[:, :, 0]]),
    "16 bits": WIDE,
    "grey of 16 bits": WIDE[:, :, 0],
    "alpha of 16 bits": np.dstack([WIDE, WIDE[:, :, 0]]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_counts_as_a_file_with_its_pixels(model, kind, tmp_path):
    array = ARRAYS[kind]
    channels = 1 if array.ndim == 2 else array.shape[2]
    order = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]  # OpenCV's
    cv2.imwrite(str(tmp_path / "image.png"), array[..., order])
    assert np.array_equal(array_as_rgb(array), read_image(tmp_path / "image.png"))
    detect = Predictor(model)
    assert torch.equal(detect(array)["boxes"], detect(tmp_path / "image.png")["boxes"])


@pytest.mark.parametrize(
    "array", [IMAGE[:, :, :2], IMAGE[None], IMAGE / 255, IMAGE.astype(np.int64), IMAGE > 9]
)
def test_other_arrays_are_refused(model, array):
    with pytest.raises(ValueError, match="image must"):
        Predictor(model)(array)
