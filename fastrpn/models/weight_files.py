"""Files of weights, of whichever library: read without running code from them, and unwrapped."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrpn._extras import require
from fastrpn.files import check_archive, replacing

__all__ = ["WeightFile", "Weights", "read_torch_file", "read_weights", "unwrap"]
__all__ += ["write_safetensors"]

Weights = Mapping[str, Tensor] | str | os.PathLike

# Where training scripts keep a state dict; the average of an exponential decay goes first.
_PLACES = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


class WeightFile(NamedTuple):
    """What a file holds.

    Attributes:
        weights: parameters and buffers by name.
        described: "name", "classes" and "config" of the model, as fastrpn's files have them.
    """

    weights: dict[str, Tensor]
    described: dict[str, Any] | None = None


def read_weights(source: Weights) -> WeightFile:
    """A state dict, or a file with one: safetensors, a state dict of torch, or a training's
    checkpoint (fastrpn's, torchvision's and timm's reference scripts').

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read or holds no state dict; the message names it.
    """
    if isinstance(source, Mapping):
        return unwrap(source, "state_dict")
    if not os.path.exists(source):
        raise FileNotFoundError(f"weights {source}: no such file")
    try:
        if Path(source).suffix == ".safetensors":
            return _read_safetensors(source)
        content = read_torch_file(source)
    except Exception as error:
        raise ValueError(f"weights {source}: cannot be read ({error})") from error
    return unwrap(content, f"weights {source}")


def read_torch_file(path: str | os.PathLike) -> Any:
    """What `torch.save` has written; its checksums hold, and no code of it runs."""
    if zipfile.is_zipfile(path):  # torch's older format is none, and has no checksums
        check_archive(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # of reference scripts
        return torch.load(path, map_location="cpu", weights_only=True)


def unwrap(content: Any, name: str) -> WeightFile:
    """The state dict in whatever a training script has saved.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: there is none.
    """
    described = None
    if isinstance(content, Mapping) and "format" in content:  # a checkpoint of fastrpn
        described, content = content.get("model"), content.get("ema", content.get("weights"))
    elif isinstance(content, Mapping):
        places = (content[place] for place in _PLACES if isinstance(content.get(place), Mapping))
        content = next(places, content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: holds no state dict")
    weights = {key: value for key, value in content.items() if key != "n_averaged"}
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name}: holds no state dict, its {key!r} is {type(value).__name__}")
    for wrapper in _WRAPPERS:
        if weights and all(key.startswith(wrapper) for key in weights):
            weights = {key.removeprefix(wrapper): value for key, value in weights.items()}
    return WeightFile(weights, described)


def _read_safetensors(path: str | os.PathLike) -> WeightFile:
    require("train", "safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        described = json.loads((file.metadata() or {}).get("fastrpn", "null"))
        return WeightFile({key: file.get_tensor(key) for key in file.keys()}, described)


def write_safetensors(
    path: str | os.PathLike, weights: Mapping[str, Tensor], described: Mapping[str, Any]
) -> Path:
    """Writes weights and what is needed to build their model; whole or not at all."""
    require("train", "safetensors")
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    metadata = {"format": "pt", "fastrpn": json.dumps(described)}
    with replacing(Path(path)) as temporary:
        save_file(plain, temporary, metadata=metadata)
    return Path(path)
