"""Networks of timm, cut to the maps that a feature pyramid takes, with timm's names."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn.models.backbones.named import check_strides, keep_inputs, require_name

__all__ = ["timm_input", "timm_network"]


def timm_network(
    name: str, strides: Sequence[int], norm: str = "batch", freeze_below: int = 0
) -> nn.Module:
    """A network with random weights.

    Args:
        name: as ``timm.create_model`` takes it, perhaps with a tag: ``"resnet18.a1_in1k"``.
        strides: of the maps that it gives, the finest first.
        norm: ``"batch"``, or ``"frozen"`` for batch norms of fixed statistics.
        freeze_below: what the map of stage ``freeze_below - 1`` needs (stage k has the stride
            2^k) gets no gradient and a frozen norm; 0 or 1: nothing.

    Returns:
        module [B, 3, H, W] -> a list of maps, with ``channels``, ``strides``, ``classifier`` (whose
        weights fit) and ``last_layers`` (names that the classifier alone has).

    Raises:
        ImportError: timm is not installed.
        ValueError: an unknown name, or a network that has no map of such a stride, takes images of
            one size alone, or has its channels last.
    """
    timm = _timm(name)
    if _pretrained(name).fixed_input_size:
        raise ValueError(f"timm:{name} takes images of one size alone; a detector's have many")
    with torch.device("meta"):  # shapes and names cost no time there
        classifier = timm.create_model(name, pretrained=False)
        whole = timm.create_model(name, pretrained=False, features_only=True).eval()
    info = whole.feature_info
    places = {stride: place for place, stride in enumerate(info.reduction())}  # the last of each
    check_strides(f"timm:{name}", strides, list(places))
    if str(getattr(whole, "output_fmt", "NCHW")).upper().endswith("NHWC"):
        raise ValueError(f"timm:{name} gives maps with channels last, which a pyramid cannot take")
    indices = [info.out_indices[places[stride]] for stride in strides]
    network = timm.create_model(
        name, pretrained=False, features_only=True, out_indices=tuple(indices)
    )
    frozen = _needed(whole, name, list(places), freeze_below)
    for parameter_name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter_name not in frozen)
    _freeze_norms(network, None if norm == "frozen" else frozen)
    keep_inputs(network)
    network.channels = tuple(network.feature_info.channels())
    network.strides = tuple(strides)
    network.classifier = f"timm:{name}"
    ours = {n.replace(".", "_") for n in network.state_dict()}  # timm renames some
    names = classifier.state_dict()
    network.last_layers = tuple(n for n in names if n.replace(".", "_") not in ours)
    return network


def timm_input(name: str) -> dict[str, Any]:
    """What images a network was trained on, as fields of the model's configuration."""
    _timm(name)
    pretrained = _pretrained(name)
    return {"image_mean": tuple(pretrained.mean), "image_std": tuple(pretrained.std)}


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"model timm:{name} needs timm: pip install timm") from error
    architecture, _, tag = name.partition(".")
    require_name("timm", architecture, timm.list_models())
    if tag:
        tagged = timm.list_pretrained(f"{architecture}.*")
        require_name("timm", name, tagged)
    return timm


def _pretrained(name: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(name)


def _needed(whole: nn.Module, name: str, strides: list[int], freeze_below: int) -> set[str]:
    """The parameters without which there is no map of stage ``freeze_below - 1``.

    Those are its parameters with a gradient, whatever the network looks like.
    """
    if freeze_below <= 1:
        return set()
    stride = 2 ** (freeze_below - 1)
    if stride not in strides:
        raise ValueError(
            f"freeze_below={freeze_below}: timm:{name} has no map of stride {stride} that would "
            f"end stage {freeze_below - 1}, only of {', '.join(map(str, strides))}"
        )
    maps: list[Tensor] = whole(torch.empty(1, 3, 64, 64, device="meta"))
    end = len(strides) - 1 - strides[::-1].index(stride)
    names, parameters = zip(*whole.named_parameters(), strict=True)
    gradients = torch.autograd.grad(maps[end].sum(), parameters, allow_unused=True)
    return {n for n, g in zip(names, gradients, strict=True) if g is not None}


def _freeze_norms(network: nn.Module, frozen: set[str] | None) -> None:
    """Fixes batch norms, those of the frozen parameters or all; timm's norms may contain the
    activation, so that timm must replace them."""
    from timm.layers.norm_act import freeze_batch_norm_2d

    for path, module in list(network.named_modules()):
        is_norm = hasattr(module, "running_var")
        if is_norm and path and (frozen is None or f"{path}.weight" in frozen):
            parent, _, last = path.rpartition(".")
            network.get_submodule(parent).add_module(last, freeze_batch_norm_2d(module))
