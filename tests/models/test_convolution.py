"""The convolutions: torch's results and gradients in either layout, hooks, no work for zeros."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastrpn.models import convolution, faster_rcnn
from fastrpn.models.convolution import Conv2d, SampledConv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def make(kind, layout, *args, **options):
    torch.manual_seed(0)
    return kind(*args, **options).to(memory_format=layout)


@pytest.mark.parametrize("shape", [(2, 128, 9, 12), (1, 130, 8, 7), (3, 128, 1, 2), (2, 5, 4, 4)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_gradient", [1.0, 0.05, 0.0])  # share of the positions
def test_results_and_gradients_are_the_convolutions(shape, layout, with_gradient):
    conv = make(SampledConv2d, layout, shape[1], 70)
    x = torch.randn(shape).contiguous(memory_format=layout)
    inputs = [t.requires_grad_() for t in (x, conv.weight, conv.bias)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    y = conv(x)
    expected = F.conv2d(*exact, padding=1)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)
    assert y.is_contiguous(memory_format=layout)

    grad = torch.randn_like(y) * (torch.rand(y.shape[0], 1, *y.shape[2:]) < with_gradient)
    grads = torch.autograd.grad(y, inputs, grad)
    for mine, other in zip(grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("need", ["x", "weight"])
@pytest.mark.parametrize("few", [False, True])
def test_one_gradient_alone(need, few):
    conv, x = make(SampledConv2d, torch.channels_last, 8, 8), torch.randn(1, 8, 6, 6)
    conv.requires_grad_(False)
    wanted = {"x": x, "weight": conv.weight}[need].requires_grad_()
    loss = (lambda y: y[0, :, 2, 3].sum()) if few else torch.sum
    (grad,) = torch.autograd.grad(loss(conv(x)), wanted)
    (expected,) = torch.autograd.grad(loss(F.conv2d(x, conv.weight, conv.bias, padding=1)), wanted)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)


def test_few_positions_are_visited_alone(monkeypatch):
    visited = []
    original = convolution._gradients_at
    monkeypatch.setattr(
        convolution,
        "_gradients_at",
        lambda positions, *rest: visited.append(positions.tolist()) or original(positions, *rest),
    )
    conv, x = make(SampledConv2d, torch.contiguous_format, 4, 4), torch.randn(2, 4, 8, 8)
    (conv(x)[0, :, 2, 3].sum() + conv(x)[1, 1, 7, 0]).backward()
    assert sorted(visited) == [[[0, 2, 3]], [[1, 7, 0]]]
    conv(x).sum().backward()
    assert len(visited) == 2


def test_second_derivatives():
    conv = make(SampledConv2d, torch.contiguous_format, 2, 2).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: conv(x)[:, :, 1, 2].square(), x)
    assert torch.autograd.gradgradcheck(lambda x: conv(x).square(), x)


def test_other_types_and_modes(monkeypatch):
    conv, x = make(SampledConv2d, torch.channels_last, 8, 8), torch.randn(1, 8, 6, 6)
    expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        conv(x).float().sum().backward()
    torch.testing.assert_close(torch.func.vmap(conv)(x[None])[0], expected)
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    double = make(SampledConv2d, torch.channels_last, 8, 8).double()
    assert double(x.double()).dtype == torch.float64
    monkeypatch.setattr(convolution._Sampled, "apply", lambda *_: pytest.fail("looks for zeros"))
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("kind", [Conv2d, SampledConv2d])
def test_the_layout_is_the_inputs(kind):
    arguments = (8, 8) if kind is SampledConv2d else (8, 8, 3)
    for weights in LAYOUTS:
        conv = make(kind, weights, *arguments)
        for layout in LAYOUTS:
            x = torch.randn(1, 8, 6, 6).contiguous(memory_format=layout)
            assert conv(x).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "stride"), [((9, 8), 2), ((7, 10), (2, 3)), ((1, 2), 2)])
def test_a_small_kernel_with_a_stride(layout, size, stride):
    conv = make(Conv2d, layout, 6, 4, 1, stride=stride)
    x = torch.randn(2, 6, *size).contiguous(memory_format=layout).requires_grad_()
    y, expected = conv(x), F.conv2d(x, conv.weight, conv.bias, stride)
    torch.testing.assert_close(y, expected)
    grad, inputs = torch.randn_like(y), (x, conv.weight, conv.bias)
    for mine, other in zip(
        torch.autograd.grad(y, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_hooks_fire():
    model = faster_rcnn("tiny", 2)
    calls = []
    model.rpn.head.conv.register_forward_hook(lambda *_: calls.append("forward"))
    model.rpn.head.conv.register_full_backward_hook(lambda *_: calls.append("backward"))
    target = {"boxes": torch.tensor([[5.0, 5, 60, 70]]), "labels": torch.tensor([1])}
    sum(model([torch.rand(3, 96, 96)], [target]).values()).backward()
    assert calls == ["forward", "backward"]


@pytest.mark.parametrize(
    ("capability", "layout"), [("AVX2", torch.contiguous_format), ("AVX512", torch.channels_last)]
)
def test_a_model_trains_in_the_fast_layout_and_detects_in_channels_last(
    monkeypatch, capability, layout
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    sizes = ((8.0,), (16.0,), (24.0,), (32.0,), (64.0,))
    model = faster_rcnn("resnet18_fpn", 2, min_size=64, max_size=64, anchor_sizes=sizes)
    maps: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *args: maps.append(args[-1].detach()))
    target = {"boxes": torch.tensor([[5.0, 5, 60, 60]]), "labels": torch.tensor([1])}
    model([torch.rand(3, 64, 64)], [target])
    assert len(maps) > 20 and all(y.is_contiguous(memory_format=layout) for y in maps)
    maps.clear()
    with torch.no_grad():
        model.eval()([torch.rand(3, 64, 64)])
    assert maps and all(y.is_contiguous(memory_format=torch.channels_last) for y in maps)
