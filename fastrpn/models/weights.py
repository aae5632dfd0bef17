"""Weights of other people's networks, loaded by their parameters' names.

Loading copies weights and changes nothing else: all of a file fits, or the model stays as it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fastrpn import distributed
from fastrpn.models.backbones import VGG16
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.pretrained import PRETRAINED, download_classifier
from fastrpn.models.torchvision_detectors import (
    is_detector,
    is_old,
    other_detector,
    to_our_names,
)
from fastrpn.models.transform import ImageTransform
from fastrpn.models.weight_files import Weights, read_weights

__all__ = ["load_detector", "load_imagenet", "load_torchvision", "load_weights", "say"]

_PREDICTOR = "roi_head.box_predictor."
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's classifiers


def load_torchvision(
    model: FasterRCNN, state_dict_or_path: Weights, norm_eps: float | None = None
) -> None:
    """Loads the weights of torchvision's ``fasterrcnn_resnet50_fpn`` (or of another ResNet's).

    A model with the ``torchvision`` rules, which is the default of ``resnet50_fpn``, then detects
    what torchvision's detects. To agree in the last digits too, it gets torchvision's memory
    layout; ``model.to(memory_format=torch.channels_last)`` makes it faster again, with other
    rounding.

    Args:
        model: ``faster_rcnn("resnet50_fpn", num_classes)`` with as many classes.
        state_dict_or_path: a state dict, or a file of one, or of a checkpoint that holds it as
            ``"model"`` (as torchvision's reference scripts write).
        norm_eps: what their model adds to the variances of the backbone's normalisation. A state
            dict does not tell it. By default 0 for files written before torchvision 0.13, as the
            published COCO weights (torchvision, too, sets 0 when it loads those), and otherwise
            what ours adds. Pass 0 for a state dict taken from a model that torchvision filled with
            the COCO weights. Our norms keep their eps; the loaded variances take up the difference.

    Raises:
        ValueError: parameters that are missing, left over or of another shape.
    """
    weights = read_weights(state_dict_or_path).weights
    if norm_eps is None and is_old(weights):
        norm_eps = 0.0
    load_detector(model, weights, norm_eps)
    model.to(memory_format=torch.contiguous_format)


def load_imagenet(model: FasterRCNN, state_dict_or_path: Weights, adapt_input: bool = True) -> None:
    """Loads a classifier of torchvision (``resnet50``, ``vgg16``, ...) or timm into the detector.

    The convolutions go to the backbone; ``layer4`` of a ResNet with one map, and the first two
    fully connected layers of a VGG, to the box head. The classifier's own last layers are left out.

    Args:
        model: with the classifier's network as its backbone.
        state_dict_or_path: a state dict, or a file of one.
        adapt_input: rewrite the first convolution of a ResNet or VGG, which knows torchvision's
            RGB, mean and standard deviation, for those of the model where they differ
            (``preset="py-faster-rcnn"``). False for weights that were trained on the model's kind
            of input, such as Caffe's. Networks by the name of another library have its input.

    Raises:
        ValueError: parameters that are missing or of another shape, or are not the network's.
    """
    _load_classifier(model, read_weights(state_dict_or_path).weights, adapt_input)


def load_weights(model: FasterRCNN, path: str | os.PathLike) -> None:
    """Loads what a training starts from, whichever of these the file holds:

    - a classifier of torchvision or timm, see :func:`load_imagenet`;
    - a torchvision Faster R-CNN, see :func:`load_torchvision`, or a checkpoint or exported weights
      of fastrpn. If it has another number of classes, the layers that classify and refine boxes
      stay as they are.

    Args:
        path: a file, of torch or safetensors; or ``"imagenet"`` (also ``"DEFAULT"``): what the
            library of the model's backbone offers for it, downloaded once.

    Raises:
        ValueError: parameters that are missing, left over or of another shape; weights that cannot
            be downloaded.
        FileNotFoundError: no such file.
    """
    if str(path).lower() in PRETRAINED and not os.path.exists(path):
        weights: Mapping[str, Tensor] = download_classifier(_classifier(model))
    else:
        weights = read_weights(path).weights
    if not is_detector(weights):
        left_out = _load_classifier(model, weights, adapt_input=True)
        if left_out:
            more = f" and {len(left_out) - 4} more" if len(left_out) > 4 else ""
            say(f"weights {path}: left out {', '.join(left_out[:4])}{more}")
        return
    ours = model.roi_head.box_predictor.state_dict(prefix=_PREDICTOR)
    names = to_our_names(weights)
    kept = {name: ours[name] for name in ours if name in names}
    kept = {name: value for name, value in kept.items() if names[name].shape != value.shape}
    if kept:
        say(f"weights {path}: of another number of classes, the last layers start anew")
    load_detector(model, weights, 0.0 if is_old(weights) else None, kept)


def say(text: str) -> None:
    """One line for the user, of the main process alone."""
    if distributed.is_main():
        print(text, file=sys.stderr)


def _classifier(model: FasterRCNN) -> str:
    """Library and name of the classifier that the backbone is of."""
    body = getattr(model.backbone, "body", model.backbone)
    classifier = getattr(body, "classifier", None)
    if not isinstance(classifier, str):
        raise ValueError(
            f"weights imagenet: no library has weights for a backbone {type(body).__name__}"
        )
    return classifier


def load_detector(
    model: FasterRCNN,
    weights: Mapping[str, Tensor],
    norm_eps: float | None,
    kept: Mapping[str, Tensor] | None = None,
) -> None:
    """Loads torchvision's parameters or ours, but for those that are kept.

    Args:
        norm_eps: see :func:`load_torchvision`; None: as ours.

    Raises:
        ValueError: they do not fit.
    """
    other = other_detector(weights)
    weights = {**to_our_names(weights), **(kept or {})}
    if norm_eps is not None:
        weights |= _variances(model.backbone, "backbone.", weights, norm_eps)
    try:
        _load(model, weights)
    except ValueError as error:
        if other is None:
            raise
        raise ValueError(
            f"these are weights of torchvision's {other}, a network that fastrpn does not have; "
            "fasterrcnn_resnet50_fpn's would load"
        ) from error


def _variances(
    backbone: nn.Module, prefix: str, weights: Mapping[str, Tensor], norm_eps: float
) -> dict[str, Tensor]:
    """Variances that mean with our eps what the given ones mean with `norm_eps`."""
    moved = {}
    for path, module in backbone.named_modules():
        name = f"{prefix}{path}.running_var"
        if hasattr(module, "running_var") and name in weights:
            moved[name] = weights[name] + (norm_eps - cast(float, module.eps))
    return moved


def _load_classifier(
    model: FasterRCNN, weights: Mapping[str, Tensor], adapt_input: bool
) -> list[str]:
    """Loads a classifier; returns the names of its last layers, which have no place."""
    body = getattr(model.backbone, "body", model.backbone)
    has_torchvisions_input = not str(getattr(body, "classifier", "")).startswith("timm:")
    if adapt_input and has_torchvisions_input:
        weights = {**weights, **_first_convolution(weights, model.transform)}
    # timm's networks for maps have "_" for some of the dots of its classifiers.
    theirs = {_plain(name): name for name in weights}
    found, ours, targets = {}, {}, {}
    for prefix, path in _places(model, weights):
        for name, value in model.get_submodule(path).state_dict().items():
            their_name = theirs.get(_plain(prefix + name), prefix + name)
            ours[their_name], targets[their_name] = value, f"{path}.{name}"
            if their_name in weights:
                found[their_name] = weights[their_name]
    left_out = [name for name in _counted(weights) if name not in found]
    last_layers = getattr(body, "last_layers", None)
    if last_layers is not None:
        found |= {name: weights[name] for name in left_out if not name.startswith(last_layers)}
    _check(ours, found)
    model.load_state_dict({targets[n]: value for n, value in found.items()}, strict=False)
    return left_out


def _places(model: FasterRCNN, weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """How a classifier's names begin, and which module of the model has them without that."""
    has_body = hasattr(model.backbone, "body")
    body, head = getattr(model.backbone, "body", model.backbone), model.roi_head.box_head
    places = [("", "backbone.body" if has_body else "backbone")]
    if any(name.startswith("layer4.") for name, _ in head.named_parameters()):
        places.append(("layer4.", "roi_head.box_head.layer4"))
    if isinstance(body, VGG16) and "classifier.0.weight" in weights:
        places.append(("classifier.0.", "roi_head.box_head.fc6"))
        places.append(("classifier.3.", "roi_head.box_head.fc7"))
    return places


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _first_convolution(
    weights: Mapping[str, Tensor], transform: ImageTransform
) -> dict[str, Tensor]:
    """What of a classifier changes so that it sees in the model's input what it saw in its own.

    That was x = (rgb - mean) / std; the model's is z = (rgb - m) / s, perhaps in BGR. As
    x = s / std * z + (m - mean) / std, the weights take up the factor and the bias the rest. Exact
    but at the image's border: the zeros around it stand for m, no longer for ImageNet's mean.
    """
    conv = "features.0" if "features.0.weight" in weights else "conv1"  # a VGG's, a ResNet's
    weight = weights.get(f"{conv}.weight")
    shift = f"{conv}.bias" if f"{conv}.bias" in weights else "bn1.running_mean"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    m, s = transform.mean.cpu(), transform.std.cpu()
    is_same = torch.equal(m, mean) and torch.equal(s, std) and not transform.config.bgr
    if is_same or weight is None:
        return {}
    if weight.shape[1] != 3 or shift not in weights:
        raise ValueError(
            f"{conv}.weight {list(weight.shape)}: cannot be rewritten for the model's kind of "
            "input (three channels and a bias or a norm could); adapt_input=False loads it as it is"
        )
    mean, std, m, s = (values.to(weight) for values in (mean, std, m, s))
    constant = (weight * ((m - mean) / std)).sum(dim=(1, 2, 3))
    weight = weight * (s / std)
    adapted = {f"{conv}.weight": weight.flip(1) if transform.config.bgr else weight}
    sign = 1 if shift.endswith("bias") else -1
    return {**adapted, shift: weights[shift] + sign * constant}


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies into the model all or, if something does not fit, nothing."""
    _check(model.state_dict(), weights)
    model.load_state_dict(weights, strict=False)


def _counted(names: Iterable[str]) -> list[str]:
    """Only nn.BatchNorm2d counts its batches; a frozen norm does without."""
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _check(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless they have the same names, shapes and kinds of numbers."""
    problems = []
    for name in sorted(_counted({**ours, **theirs})):
        if name not in theirs:
            problems.append(f"{name} is missing")
        elif name not in ours:
            problems.append(f"{name} is unknown to the model")
        elif theirs[name].shape != ours[name].shape:
            given, expected = tuple(theirs[name].shape), tuple(ours[name].shape)
            problems.append(f"{name} has shape {given}, the model's {expected}")
        elif theirs[name].is_floating_point() != ours[name].is_floating_point():
            problems.append(f"{name} is {theirs[name].dtype}, the model's {ours[name].dtype}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict does not fit: {'; '.join(problems[:5])}{more}")
