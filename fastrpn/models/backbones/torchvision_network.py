"""Classifiers of torchvision, cut to the maps that a feature pyramid takes, with their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn.models.backbones.named import check_strides, keep_inputs, require_name
from fastrpn.models.backbones.resnet import FrozenBatchNorm2d

__all__ = ["TorchvisionNetwork", "torchvision_input"]

_SIDE = 64  # pixels of the image on which strides are measured


class TorchvisionNetwork(nn.Module):
    """The layers of a classifier with random weights, one after another.

    Args:
        name: of torchvision's builder: ``"mobilenet_v3_large"``.
        strides: of the maps that it gives, the finest first. The map of a stride is the output of
            the last layer that has it.
        norm: ``"batch"``, or ``"frozen"`` for batch norms of fixed statistics.
        freeze_below: layers up to the map of stage ``freeze_below - 1`` (stage k has the stride
            2^k) get no gradient and a frozen norm; 0 or 1: none.

    Attributes:
        channels, strides: of each map.
        classifier, last_layers: whose weights fit; names that the classifier alone has.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: an unknown name, or a network that has no map of such a stride or whose layers
            do not follow one another.
    """

    def __init__(
        self, name: str, strides: Sequence[int], norm: str = "batch", freeze_below: int = 0
    ) -> None:
        super().__init__()
        models = _torchvision(name)
        classifier = models.get_model(name, weights=None).eval()
        layers = dict(_layers(classifier))
        ends = _ends_of_strides(layers)
        self.classifier = f"torchvision:{name}"
        check_strides(self.classifier, strides, list(ends))
        self.strides = tuple(strides)
        self.channels = tuple(ends[stride][1] for stride in strides)
        self._ends = tuple(ends[stride][0] for stride in strides)
        self._paths = tuple(layers)[: self._ends[-1] + 1]
        frozen_layers = 0
        if freeze_below > 1:
            if 2 ** (freeze_below - 1) not in ends:
                raise ValueError(
                    f"freeze_below={freeze_below}: {self.classifier} has no map of stride "
                    f"{2 ** (freeze_below - 1)} that would end stage {freeze_below - 1}, only of "
                    f"{', '.join(map(str, ends))}"
                )
            frozen_layers = ends[2 ** (freeze_below - 1)][0] + 1
        for number, path in enumerate(self._paths):
            layer = layers[path].train().requires_grad_(number >= frozen_layers)
            is_frozen = norm == "frozen" or number < frozen_layers
            self._add(path, _with_frozen_norms(layer) if is_frozen else layer)
        keep_inputs(self)
        self.last_layers = tuple(classifier.state_dict().keys() - self.state_dict().keys())

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps [B, channels[i], H / strides[i], W / strides[i]]."""
        x, outputs = images, []
        for number, path in enumerate(self._paths):
            x = self.get_submodule(path)(x)
            if number in self._ends:
                outputs.append(x)
        return outputs

    def _add(self, path: str, layer: nn.Module) -> None:
        """Adds a layer under its name, which may have dots."""
        *containers, last = path.split(".")
        parent: nn.Module = self
        for container in containers:
            if container not in parent._modules:
                parent.add_module(container, nn.Module())
            parent = parent.get_submodule(container)
        parent.add_module(last, layer)


def torchvision_input(name: str) -> dict[str, Any]:
    """What images a network was trained on, as fields of the model's configuration."""
    transform = _torchvision(name).get_model_weights(name).DEFAULT.transforms()
    return {"image_mean": tuple(transform.mean), "image_std": tuple(transform.std)}


def _torchvision(name: str) -> ModuleType:
    try:
        from torchvision import models
    except ImportError as error:
        reason = f"model torchvision:{name} needs torchvision: pip install torchvision"
        raise ImportError(reason) from error
    require_name("torchvision", name, models.list_models(module=models))
    return models


def _layers(classifier: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths of layers in order; what is only a sequence of others counts as these."""
    for name, child in classifier.named_children():
        if isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward:
            yield from ((f"{name}.{inner}", layer) for inner, layer in child.named_children())
        else:
            yield name, child


@torch.no_grad()
def _ends_of_strides(layers: Mapping[str, nn.Module]) -> dict[int, tuple[int, int]]:
    """{stride: (number of the last layer with it, channels)}, as far as each layer takes what the
    one before gave, and gives a map."""
    ends: dict[int, tuple[int, int]] = {}
    x = torch.zeros(1, 3, _SIDE, _SIDE)
    for number, layer in enumerate(layers.values()):
        if isinstance(layer, nn.AdaptiveAvgPool2d | nn.Linear | nn.Dropout):
            break  # the classifier begins
        try:
            x = layer(x)
        except Exception:  # whatever a layer says of input that is not meant for it
            break
        if x.dim() != 4 or x.shape[2] != x.shape[3] or x.shape[2] == 0:
            break
        stride = _SIDE // x.shape[2]
        if stride * x.shape[2] != _SIDE:
            break  # rounded otherwise than a pyramid can use
        ends[stride] = (number, x.shape[1])
    return ends


def _with_frozen_norms(module: nn.Module) -> nn.Module:
    """The module with the statistics of its batch norms fixed; values and eps stay."""
    if type(module) is nn.BatchNorm2d:
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        module.add_module(name, _with_frozen_norms(child))
    return module
