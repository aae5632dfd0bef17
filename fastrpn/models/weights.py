"""Weights of other people's networks, loaded from files by their parameters' names."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastrpn.files import check_archive
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.transform import ImageTransform

__all__ = ["load_imagenet", "load_torchvision", "load_weights"]

Weights = Mapping[str, Tensor] | str | os.PathLike

_TO_OURS = (
    (re.compile(r"^roi_heads\."), "roi_head."),
    # Convolutions have been wrapped since torchvision 0.13; older files name them as we do.
    (re.compile(r"^(rpn\.head\.conv)\.0\.0\."), r"\1."),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.0\."), r"\1."),
)

_PREDICTOR = "roi_head.box_predictor."
_NORM_EPS = 1e-5
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
        norm_eps: added to the variances of the backbone's normalisation. A state dict does not tell
            it. By default 0 for files written before torchvision 0.13, as the published COCO
            weights (torchvision, too, sets 0 when it loads those), and 1e-5 otherwise. Pass 0 for
            a state dict taken from a model that torchvision filled with the COCO weights.

    Raises:
        ValueError: parameters that are missing, left over or of another shape.
    """
    state_dict = _read(state_dict_or_path)
    if norm_eps is None:
        norm_eps = 0.0 if "rpn.head.conv.weight" in state_dict else _NORM_EPS
    _load(model, _rename(state_dict))
    model.to(memory_format=torch.contiguous_format)
    for module in model.backbone.modules():
        if hasattr(module, "running_var"):
            module.eps = norm_eps  # type: ignore[assignment]  # whatever norm it is


def load_imagenet(model: FasterRCNN, state_dict_or_path: Weights, adapt_input: bool = True) -> None:
    """Loads a classifier of torchvision (``resnet50``, ``vgg16``, ...) into the detector.

    The convolutions go to the backbone; ``layer4`` of a ResNet with one map, and the first two
    fully connected layers of a VGG, to the box head.

    Args:
        model: with the classifier's network as its backbone.
        state_dict_or_path: a state dict, or a file of one.
        adapt_input: rewrite the first convolution, which knows torchvision's RGB, mean and standard
            deviation, for those of the model where they differ (``preset="py-faster-rcnn"``). False
            for weights that were trained on the model's kind of input, such as Caffe's.

    Raises:
        ValueError: parameters that are missing or of another shape.
    """
    state_dict = _read(state_dict_or_path)
    if adapt_input:
        state_dict |= _first_convolution(state_dict, model.transform)
    parts = {"": getattr(model.backbone, "body", model.backbone)}
    if any(name.startswith("layer4.") for name, _ in model.roi_head.box_head.named_parameters()):
        parts["layer4."] = model.roi_head.box_head.layer4
    if "classifier.0.weight" in state_dict:
        parts["classifier.0."] = model.roi_head.box_head.fc6
        parts["classifier.3."] = model.roi_head.box_head.fc7
    for prefix, module in parts.items():
        names = {prefix + name for name in module.state_dict()}
        _load(module, {n.removeprefix(prefix): v for n, v in state_dict.items() if n in names})


def load_weights(model: FasterRCNN, path: str | os.PathLike) -> None:
    """Loads what a training starts from, whichever of these the file holds:

    - a classifier of torchvision, see :func:`load_imagenet`;
    - a torchvision Faster R-CNN, see :func:`load_torchvision`, or a checkpoint of fastrpn. If it
      has another number of classes, the layers that classify and refine boxes stay as they are.

    Raises:
        ValueError: parameters that are missing, left over or of another shape.
        FileNotFoundError: no such file.
    """
    state_dict = _read(path)
    if not any(name.startswith("rpn.") for name in state_dict):
        load_imagenet(model, state_dict)
        return
    is_old = any(name.startswith("roi_heads.") for name in state_dict)
    is_old = is_old and "rpn.head.conv.weight" in state_dict
    state_dict = _rename(state_dict)
    if is_old:
        # Its norms had an eps of 0, which a checkpoint does not record: the variances take it up.
        for name in state_dict:
            if name.endswith("running_var"):
                state_dict[name] = state_dict[name] - _NORM_EPS
    for name, value in model.roi_head.box_predictor.state_dict(prefix=_PREDICTOR).items():
        if name in state_dict and state_dict[name].shape != value.shape:
            state_dict[name] = value
    _load(model, state_dict)


def _first_convolution(
    state_dict: Mapping[str, Tensor], transform: ImageTransform
) -> dict[str, Tensor]:
    """What of a classifier changes so that it sees in the model's input what it saw in its own.

    That was x = (rgb - mean) / std; the model's is z = (rgb - m) / s, perhaps in BGR. As
    x = s / std * z + (m - mean) / std, the weights take up the factor and the bias the rest. Exact
    but at the image's border: the zeros around it stand for m, no longer for ImageNet's mean.
    """
    conv = "features.0" if "features.0.weight" in state_dict else "conv1"  # a VGG's, a ResNet's
    weight = state_dict.get(f"{conv}.weight")
    shift = f"{conv}.bias" if f"{conv}.bias" in state_dict else "bn1.running_mean"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    m, s = transform.mean.cpu(), transform.std.cpu()
    is_same = torch.equal(m, mean) and torch.equal(s, std) and not transform.config.bgr
    if is_same or weight is None:
        return {}
    if weight.shape[1] != 3 or shift not in state_dict:
        raise ValueError(
            f"{conv}.weight {list(weight.shape)}: cannot be rewritten for the model's kind of "
            "input (three channels and a bias or a norm could); adapt_input=False loads it as it is"
        )
    mean, std, m, s = (values.to(weight) for values in (mean, std, m, s))
    constant = (weight * ((m - mean) / std)).sum(dim=(1, 2, 3))
    weight = weight * (s / std)
    adapted = {f"{conv}.weight": weight.flip(1) if transform.config.bgr else weight}
    sign = 1 if shift.endswith("bias") else -1
    return {**adapted, shift: state_dict[shift] + sign * constant}


def _rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names to ours; ours stay."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in _TO_OURS:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


def _read(state_dict_or_path: Weights) -> dict[str, Tensor]:
    if not isinstance(state_dict_or_path, Mapping):
        state_dict_or_path = _read_file(state_dict_or_path)
    if "format" in state_dict_or_path:  # a checkpoint of fastrpn
        return dict(state_dict_or_path["weights"])
    return dict(state_dict_or_path.get("model", state_dict_or_path))


def _read_file(path: str | os.PathLike) -> Mapping:
    try:
        if zipfile.is_zipfile(path):  # torch's older format is none, and has no checksums
            check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"weights {path}: cannot be read ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"weights {path}: holds no state dict")
    return content


def _load(module: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Copies into the module all or, if something does not fit, nothing."""
    ours = module.state_dict()
    # Only nn.BatchNorm2d counts its batches; a frozen norm does without.
    names = {name for name in (*ours, *state_dict) if not name.endswith("num_batches_tracked")}
    problems = []
    for name in sorted(names):
        if name not in state_dict:
            problems.append(f"{name} is missing")
        elif name not in ours:
            problems.append(f"{name} is unknown to the model")
        elif state_dict[name].shape != ours[name].shape:
            theirs, expected = tuple(state_dict[name].shape), tuple(ours[name].shape)
            problems.append(f"{name} has shape {theirs}, the model's {expected}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict does not fit: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(state_dict, strict=False)
