"""The baseline finds what is easy, so that beating it means something."""

import numpy as np
import pytest
import torch

from fastrpn.data import VOCDataset, generate_synthetic
from fastrpn.data.synthetic.baseline import ContourBaseline, majority_label
from fastrpn.evaluation import evaluate
from fastrpn.images import image_to_tensor


def test_finds_plain_boxes_on_a_plain_ground():
    image = np.full((100, 120, 3), (20, 90, 40), np.uint8)
    image[10:40, 20:60] = (250, 20, 20)
    image[60:90, 70:110] = (20, 20, 250)
    (found,) = ContourBaseline(label=3)([image_to_tensor(image)])
    expected = torch.tensor([[20.0, 10, 60, 40], [70, 60, 110, 90]])
    order = found["boxes"][:, 0].argsort()
    assert (found["boxes"][order] - expected).abs().max() <= 1
    assert found["labels"].tolist() == [3, 3] and found["labels"].dtype == torch.int64
    assert found["scores"].min() > 0.9


def test_finds_nothing_where_nothing_is():
    (found,) = ContourBaseline(label=1)([torch.full((3, 50, 50), 0.4)])
    assert found["boxes"].shape == (0, 4) and found["labels"].shape == (0,)


def test_majority_leaves_out_ignored_objects():
    targets = [
        {"labels": torch.tensor([1, 2, 2])},
        {"labels": torch.tensor([1, 1, 3]), "ignore": torch.tensor([True, True, False])},
    ]
    assert majority_label(targets, num_classes=4) == 2
    with pytest.raises(ValueError, match="no object"):
        majority_label([{"labels": torch.zeros(0, dtype=torch.int64)}], num_classes=4)


def test_synthetic_data_is_too_hard_for_it(tmp_path):
    generate_synthetic(tmp_path, 20, 40, progress=False)
    train, val = VOCDataset(tmp_path, "train"), VOCDataset(tmp_path, "val")
    targets = [train.target(i) for i in range(len(train))]
    baseline = ContourBaseline(majority_label(targets, len(train.classes)))
    assert evaluate(baseline, val, progress=False)["AP50"] < 0.4
