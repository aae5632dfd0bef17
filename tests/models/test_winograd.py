"""The fast convolutions: F.conv2d's results and gradients, in every regime."""

import pytest
import torch
from torch.nn import functional as F

from fastrpn.models import winograd
from fastrpn.models.winograd import conv2d


@pytest.fixture(autouse=True, params=[False, True], ids=["without AVX-512", "with AVX-512"])
def convolution(monkeypatch, request):
    """Both ways, whatever this CPU prefers; small maps count, too."""
    monkeypatch.setattr(winograd, "_FEWEST_POSITIONS", 1)
    monkeypatch.setattr(winograd, "_AVX512", request.param)


def channels_last(*shape):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "stride"),
    [
        ((2, 128, 9, 12), 130, 3, 1),  # Winograd: odd height
        ((1, 130, 8, 7), 128, 3, 1),  # odd width
        ((3, 128, 1, 2), 128, 3, 1),  # less than a tile
        ((2, 64, 9, 8), 70, 3, 2),
        ((2, 40, 9, 8), 30, 3, 1),  # too few channels
        ((2, 40, 9, 8), 30, 1, 2),
        ((2, 40, 9, 8), 30, 1, 1),
    ],
)
@pytest.mark.parametrize("with_gradient", [1.0, 0.05, 0.0])  # share of the positions
def test_results_and_gradients_are_the_convolutions(shape, outputs, kernel, stride, with_gradient):
    torch.manual_seed(0)
    x, weight = channels_last(*shape), channels_last(outputs, shape[1], kernel, kernel) / 30
    inputs = [t.requires_grad_() for t in (x, weight, torch.randn(outputs))]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y = conv2d(*inputs, stride, kernel // 2)
    expected = F.conv2d(*exact, stride, kernel // 2)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)

    grad = torch.randn_like(y) * (torch.rand(y.shape[0], 1, *y.shape[2:]) < with_gradient)
    grads = torch.autograd.grad(y, inputs, grad)
    for mine, other in zip(grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=1e-4)


def test_strips_join_without_a_seam(monkeypatch):
    x, weight = channels_last(1, 128, 11, 6).requires_grad_(), channels_last(128, 128, 3, 3)
    whole = conv2d(x, weight, None, 1, 1)
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    monkeypatch.setattr(winograd, "_STRIP", 1)
    strips = conv2d(x, weight, None, 1, 1)
    (grad,) = torch.autograd.grad(strips.square().sum(), x)
    torch.testing.assert_close(strips, whole, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-2)


def test_it_is_as_near_to_the_exact_result_as_the_direct_convolution():
    torch.manual_seed(0)
    x, weight = channels_last(1, 256, 12, 12), channels_last(128, 256, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    errors = [(f(x, weight, None, 1, 1) - exact).norm() for f in (conv2d, F.conv2d)]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("need", ["x", "weight"])
def test_one_gradient_alone(need):
    x, weight = channels_last(1, 128, 4, 4), channels_last(128, 128, 3, 3)
    wanted = {"x": x, "weight": weight}[need].requires_grad_()
    (grad,) = torch.autograd.grad(conv2d(x, weight, None, 1, 1).sum(), wanted)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), wanted)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-2)


def test_other_layouts_types_modes_and_small_maps_are_left_alone(monkeypatch):
    monkeypatch.setattr(winograd._Winograd, "apply", lambda *_: pytest.fail("Winograd was called"))
    x, weight = channels_last(1, 128, 4, 4), channels_last(128, 128, 3, 3)
    expected = F.conv2d(x, weight, padding=1)
    assert torch.equal(
        conv2d(x.contiguous(), weight, None, 1, 1), F.conv2d(x.contiguous(), weight, padding=1)
    )
    assert conv2d(x.double(), weight.double(), None, 1, 1).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, None, 1, 1).dtype == torch.bfloat16
    compiled = torch.compile(
        lambda x: conv2d(x, weight, None, 1, 1), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), expected)
    monkeypatch.setattr(winograd, "_FEWEST_POSITIONS", 17)
    with torch.no_grad():
        assert torch.equal(conv2d(x, weight, None, 1, 1), expected)
