"""Weights of classifiers that their libraries download."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["PRETRAINED", "download_classifier"]

PRETRAINED = ("imagenet", "default")  # what asks for a download, in any case


def download_classifier(source: str) -> Mapping[str, Tensor]:
    """The state dict of a pretrained classifier, from the library's cache or from the network.

    Args:
        source: library and name, such as ``"timm:resnet18.a1_in1k"``.

    Raises:
        ImportError: the library is not installed.
        ValueError: there are no such weights, or they cannot be had.
    """
    library, _, name = source.partition(":")
    try:
        return _of_timm(name) if library == "timm" else _of_torchvision(name)
    except ImportError as error:
        raise ImportError(f"weights of {source} need {library}: pip install {library}") from error
    except Exception as error:  # each library and each kind of connection has its own
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ValueError(
            f"weights of {source} cannot be downloaded ({reason}); without a network give a file"
        ) from error


def _of_timm(name: str) -> Mapping[str, Tensor]:
    import timm

    with torch.random.fork_rng(devices=[]):  # timm draws weights before it fills them
        return timm.create_model(name, pretrained=True).state_dict()


def _of_torchvision(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
