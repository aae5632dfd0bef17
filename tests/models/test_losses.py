"""Losses on cases worked out by hand."""

import math

import pytest
import torch

from fastrpn.models.losses import box_head_losses, rpn_losses
from fastrpn.models.sampling import Samples


def rpn_case():
    """Two images, three slots: a positive, a negative, and a slot that is empty in the second."""
    objectness = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 9.0]], requires_grad=True)
    deltas = torch.zeros(2, 3, 4, requires_grad=True)
    targets = torch.full((2, 3, 4), math.nan)  # only positives may be looked at
    targets[:, 0] = torch.tensor([0.05, -0.5, 2.0, 0.0])
    positive = torch.tensor([[True, False, False]] * 2)
    weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    return objectness, deltas, targets, Samples(torch.zeros(2, 3).long(), positive, weights)


def smooth_l1(x, beta):
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - 0.5 * beta


def test_rpn_losses_divided_by_the_sampled_count():
    cross_entropy, box = rpn_losses(*rpn_case(), beta=1 / 9)
    expected = (4 * math.log(2) + math.log(1 + math.exp(2))) / 5
    assert cross_entropy.item() == pytest.approx(expected, rel=1e-6)
    per_object = sum(smooth_l1(x, 1 / 9) for x in (0.05, 0.5, 2.0))
    assert box.item() == pytest.approx(2 * per_object / 5, rel=1e-6)


def test_rpn_losses_as_in_equation_1():
    normalizers = (256.0, 2400.0)
    cross_entropy, box = rpn_losses(*rpn_case(), beta=1.0, normalizers=normalizers, box_weight=10.0)
    summed = 4 * math.log(2) + math.log(1 + math.exp(2))
    assert cross_entropy.item() == pytest.approx(summed / (2 * 256), rel=1e-6)
    per_object = sum(smooth_l1(x, 1.0) for x in (0.05, 0.5, 2.0))
    assert box.item() == pytest.approx(10 * 2 * per_object / (2 * 2400), rel=1e-6)


def test_gradients_ignore_empty_slots_and_nan_targets():
    objectness, deltas, *rest = rpn_case()
    sum(rpn_losses(objectness, deltas, *rest, beta=1 / 9)).backward()
    assert objectness.grad.isfinite().all() and deltas.grad.isfinite().all()
    assert objectness.grad[1, 2] == 0
    assert (deltas.grad[:, 1:] == 0).all() and (deltas.grad[:, 0, :3] != 0).all()


def test_box_head_losses():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = 1.0
    deltas = torch.zeros(1, 3, 4, 4)
    deltas[0, 0, 2] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # the true class; the others are wrong
    deltas[0, 0, 3] = 100.0
    deltas[0, 1] = 100.0  # background: no box
    labels = torch.tensor([[2, 0, 1]])
    targets = torch.tensor([[[0.0] * 4, [math.inf] * 4, [5.0] * 4]])
    weights = torch.tensor([[1.0, 1.0, 0.0]])
    cross_entropy, box = box_head_losses(logits, deltas, labels, targets, weights, beta=1.0)
    first = -math.log(math.e / (math.e + 3))
    assert cross_entropy.item() == pytest.approx((first + math.log(4)) / 2, rel=1e-6)
    assert box.item() == pytest.approx(0.5 / 2, rel=1e-6)


def test_box_errors_in_the_units_of_their_class():
    deltas, targets = torch.zeros(1, 2, 3, 4), torch.full((1, 2, 4), 2.0)
    std = torch.tensor([[1.0] * 4, [4.0] * 4, [1.0, 1.0, 0.5, 0.5]])
    for label, expected in ((1, 4 * smooth_l1(0.5, 1)), (2, 2 * smooth_l1(2, 1) + 2 * 3.5)):
        _, box = box_head_losses(
            torch.zeros(1, 2, 3),
            deltas,
            torch.tensor([[label, 0]]),
            targets,
            torch.ones(1, 2),
            beta=1.0,
            std=std,
        )
        assert box.item() == pytest.approx(expected / 2)


def test_nothing_sampled_gives_zero_and_no_nan():
    objectness, deltas, targets, samples = rpn_case()
    nothing = torch.zeros_like(samples.weights)
    empty = samples._replace(positive=torch.zeros_like(samples.positive), weights=nothing)
    for loss in rpn_losses(objectness, deltas, targets, empty, beta=1.0):
        assert loss.item() == 0.0
    for loss in box_head_losses(
        torch.zeros(2, 3, 5),
        torch.zeros(2, 3, 5, 4),
        torch.zeros(2, 3, dtype=torch.int64),
        targets,
        nothing,
        beta=1.0,
    ):
        assert loss.item() == 0.0
