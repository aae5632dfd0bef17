"""The spread of box targets by class, on cases worked out by hand."""

import math

import pytest
import torch

from fastrpn.training.objectives import box_target_std

OBJECT = [10.0, 10, 20, 20]


class Targets:
    classes = ["__background__", "a", "b", "c"]

    def __init__(self, *targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def target(self, index):
        return self.targets[index]


def target(proposals, labels=(1,), boxes=(OBJECT,), ignore=(False,)):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignore": torch.tensor(ignore, dtype=torch.bool),
        "proposals": torch.tensor(proposals).reshape(-1, 4),
    }


def test_by_hand():
    shifted = [12.0, 10, 22, 20]  # IoU 2/3, tx = -0.2
    tall = [10.0, 10, 20, 30]  # IoU 0.5: ty = -0.25, th = -log 2
    far = [50.0, 50, 60, 60]  # meets nothing
    std = box_target_std(
        Targets(target([shifted, far]), target([tall], labels=[2])), (10.0, 10.0, 5.0, 5.0)
    )
    # The object itself is a proposal with targets 0: of 0 and x the deviation is |x| / 2.
    assert std[1].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])  # 10 * 0.2 / 2, then no spread
    assert std[2].tolist() == pytest.approx([1.0, 1.25, 1.0, 5 * math.log(2) / 2])
    assert std[0].tolist() == std[3].tolist() == [1.0] * 4  # no targets at all
    doubled = [14.0, 10, 24, 20]  # IoU 3/7: not met
    smaller = [11.0, 10, 21, 20]  # tx = -0.1
    std = box_target_std(Targets(target([shifted, smaller, doubled])), (10.0, 10.0, 5.0, 5.0))
    mean = (0 - 2 - 1) / 3
    expected = math.sqrt((0 + 4 + 1) / 3 - mean**2)
    assert std[1, 0].item() == pytest.approx(expected)


def test_objects_to_ignore_and_images_without_objects_do_not_count():
    shifted = [11.0, 10, 21, 20]
    empty = target([shifted], labels=[], boxes=[], ignore=[])
    ignored = target([shifted], ignore=[True])
    assert (box_target_std(Targets(empty, ignored), (10.0, 10.0, 5.0, 5.0)) == 1).all()
