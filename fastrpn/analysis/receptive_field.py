"""The receptive fields of feature maps, by arithmetic.

A position of a feature map sees a rectangle of the image: its receptive field. The module runs
once on the meta device (shapes only, no arithmetic on pixels), and every operator it calls maps
the fields of its inputs to those of its output (Dumoulin and Visin, "A guide to convolution
arithmetic", 2016; Araujo et al., "Computing receptive fields of convolutional neural networks",
Distill, 2019). So any module works, whatever its control flow; no list of layers is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fastrpn.models.structures import list_of_maps

__all__ = ["FieldAxis", "ReceptiveField", "receptive_field"]


@dataclass(frozen=True)
class FieldAxis:
    """What position i sees along one axis: pixels from start + i * stride to stop + i * stride."""

    stride: float
    start: float
    stop: float

    @property
    def size(self) -> float:
        """Pixels from the first to the last one seen."""
        return self.stop - self.start

    def window(self, kernel: int, stride: int, padding: int, dilation: int) -> FieldAxis:
        """Behind a sliding window: a convolution or a pooling."""
        first = -padding
        last = (kernel - 1) * dilation - padding
        return FieldAxis(
            self.stride * stride, self.start + first * self.stride, self.stop + last * self.stride
        )

    def repeat(self, factor: int) -> FieldAxis:
        """Behind nearest-neighbour upsampling.

        The ``factor`` copies of a position see the same pixels from different places; start and
        stop are those of the copies that see furthest to either side.
        """
        stride = self.stride / factor
        return FieldAxis(stride, self.start - (factor - 1) * stride, self.stop)

    def join(self, other: FieldAxis) -> FieldAxis:
        """Where two branches meet: the hull of both."""
        if self.stride != other.stride:
            raise ValueError(f"branches of stride {self.stride} and {other.stride} meet")
        return FieldAxis(self.stride, min(self.start, other.start), max(self.stop, other.stop))


@dataclass(frozen=True)
class ReceptiveField:
    """The field of every position of a map, in pixels of the padded input image."""

    y: FieldAxis
    x: FieldAxis

    @property
    def size(self) -> tuple[float, float]:
        """(height, width)."""
        return self.y.size, self.x.size

    @property
    def stride(self) -> tuple[float, float]:
        """(vertical, horizontal) distance of neighbouring positions."""
        return self.y.stride, self.x.stride

    def box(self, row: int = 0, column: int = 0) -> tuple[float, float, float, float]:
        """The field of a position as xyxy; it may reach out of the image."""
        dy, dx = row * self.y.stride, column * self.x.stride
        return self.x.start + dx, self.y.start + dy, self.x.stop + dx, self.y.stop + dy

    def join(self, other: ReceptiveField) -> ReceptiveField:
        """The hull of two fields of equal stride."""
        return ReceptiveField(self.y.join(other.y), self.x.join(other.x))


def receptive_field(
    backbone: nn.Module, head: nn.Module | None = None, *, image_size: tuple[int, int] = (512, 512)
) -> list[ReceptiveField]:
    """Receptive field, stride and offset of every feature map, by arithmetic.

    Convolutions, poolings and nearest upsampling are followed; where branches meet, the hull
    counts. Every other operator that keeps height and width is taken for one that works position by
    position (activations, sums, concatenations, normalisation by stored statistics).

    Args:
        backbone: [1, 3, H, W] -> a feature map or a dict, list or tuple of them.
        head: applied to each map before it is judged, for example ``model.rpn.head.conv``.
        image_size: (H, W) of the pass; only its shape matters, as long as the network accepts it.

    Returns:
        One field for each map, in the backbone's order.

    Raises:
        ValueError: an operator that moves or mixes positions in another way, or a map that does
            not depend on the image.
    """
    backbone = copy.deepcopy(backbone).eval().to("meta")
    image = torch.empty(1, 3, *image_size, device="meta")
    unit = FieldAxis(1, 0, 1)
    with torch.no_grad(), _FollowFields(image, ReceptiveField(unit, unit)) as follow:
        maps = list_of_maps(backbone(image))
        if head is not None:
            head = copy.deepcopy(head).eval().to("meta")
            maps = [head(feature) for feature in maps]
    return [follow.field_of(feature) for feature in maps]


class _FollowFields(TorchDispatchMode):
    """Notes the field of every tensor that depends on the image."""

    def __init__(self, image: Tensor, field: ReceptiveField) -> None:
        super().__init__()
        self._fields = WeakTensorKeyDictionary()
        self._fields[image] = field

    def field_of(self, feature: Tensor) -> ReceptiveField:
        if feature not in self._fields:
            raise ValueError("a feature map does not depend on the image")
        return self._fields[feature]

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        inputs = [tensor for tensor in inputs if tensor in self._fields]
        if inputs:
            rule = _RULES.get(func, _keep)
            field = rule(func, out, args, [(t, self._fields[t]) for t in inputs])
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self._fields[tensor] = field
        return out


Inputs = list[tuple[Tensor, ReceptiveField]]  # an operator's tensors that depend on the image
Ints = Sequence[int]  # one for both axes, or height's and width's


def _keep(func: OpOverload, out: Any, args: Sequence[Any], inputs: Inputs) -> ReceptiveField:
    """Position by position: all maps have one height and width."""
    shapes = {tuple(t.shape[-2:]) for t, _ in inputs}
    shapes |= {tuple(t.shape[-2:]) for t in tree_leaves(out)[:1]}
    if len(shapes) > 1 or any(t.dim() != 4 for t, _ in inputs):
        raise ValueError(f"cannot follow {func} from {_shapes(inputs)}: it mixes positions")
    field = inputs[0][1]
    for _, other in inputs[1:]:
        field = field.join(other)
    return field


def _convolve(func: OpOverload, out: Any, args: Sequence[Any], inputs: Inputs) -> ReceptiveField:
    _, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed:
        raise ValueError(f"cannot follow {func} of a transposed convolution")
    return _slide(inputs[0][1], weight.shape[-2:], stride, padding, dilation)


def _max_pool(func: OpOverload, out: Any, args: Sequence[Any], inputs: Inputs) -> ReceptiveField:
    kernel, stride, padding, dilation = _options(args, ([], [0], [1]))
    return _slide(inputs[0][1], kernel, stride or kernel, padding, dilation)


def _avg_pool(func: OpOverload, out: Any, args: Sequence[Any], inputs: Inputs) -> ReceptiveField:
    kernel, stride, padding = _options(args[:4], ([], [0]))
    return _slide(inputs[0][1], kernel, stride or kernel, padding, [1])


def _upsample(func: OpOverload, out: Any, args: Sequence[Any], inputs: Inputs) -> ReceptiveField:
    tensor, field = inputs[0]
    factors = [
        large / small for large, small in zip(out.shape[-2:], tensor.shape[-2:], strict=True)
    ]
    if any(factor != int(factor) for factor in factors):
        raise ValueError(f"cannot follow {func} by the factors {factors}: not whole numbers")
    return ReceptiveField(field.y.repeat(int(factors[0])), field.x.repeat(int(factors[1])))


def _slide(
    field: ReceptiveField, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> ReceptiveField:
    y, x = zip(*(_pair(option) for option in (kernel, stride, padding, dilation)), strict=True)
    return ReceptiveField(field.y.window(*y), field.x.window(*x))


def _options(args: Sequence[Any], defaults: Sequence[Ints]) -> list[Ints]:
    """An operator's arguments behind its input and kernel, trailing defaults filled in."""
    given = list(args[1:])
    return given[: len(defaults) + 1] + list(defaults[len(given) - 1 :])


def _pair(option: Ints) -> tuple[int, int]:
    return (option[0], option[-1])


def _shapes(inputs: Inputs) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor, _ in inputs)


_aten = torch.ops.aten
_RULES = {
    _aten.convolution.default: _convolve,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.avg_pool2d.default: _avg_pool,
    _aten.upsample_nearest2d.default: _upsample,
    _aten.upsample_nearest2d.vec: _upsample,
}
