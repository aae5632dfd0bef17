"""Convolutions and matrix products of an ONNX file in 8 bits, after training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrpn.deployment.program import InputSize
from fastrpn.models.validation import check_image

__all__ = ["quantize"]

_LAYERS = ["Conv", "Gemm", "MatMul"]
_LAST = ("rpn.head.cls_logits", "rpn.head.bbox_pred", "box_predictor")  # in the weights' names


def quantize(path: Path, images: Iterable[Tensor], size: InputSize) -> None:
    """Rewrites an exported file so that its layers compute with 8-bit integers.

    Weights get a scale for each output channel, what enters a layer one scale and zero point, from
    the least and greatest value that it has on the images (Jacob et al., 2018, section 2). The file
    stays standard ONNX: QuantizeLinear and DequantizeLinear around each layer, which onnxruntime
    and OpenVINO fuse. The first convolution and the layers that give logits and deltas stay in
    float32, as is usual (Choi et al., 2018, section 5), and so do proposals, pooling, suppression.

    Args:
        path: of :func:`~fastrpn.deployment.export`, "onnx".
        images: RGB [3, H, W] in 0..1 of the kind that the detector will meet; about a hundred.
        size: what the file takes; images of another size are resized to it.

    Raises:
        TypeError, ValueError: no image, or something that is none.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = _feeds(images, size)
    first = next(feeds, None)
    if first is None:
        raise ValueError("int8 must be images to calibrate with, got none")
    quant_pre_process(path, path, skip_symbolic_shape=True)
    layers = [node for node in onnx.load(path).graph.node if node.op_type in _LAYERS]
    last = [node for node in layers if any(name in key for key in node.input for name in _LAST)]
    quantize_static(
        path,
        path,
        _Reader(first, feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # times a signed weight: what VNNI multiplies
        weight_type=QuantType.QInt8,
        op_types_to_quantize=_LAYERS,
        nodes_to_exclude=[node.name for node in (layers[0], *last)],
    )


class _Reader:
    """What onnxruntime takes calibration data from."""

    def __init__(self, first: dict[str, np.ndarray], others: Iterator[dict[str, np.ndarray]]):
        self._first: dict[str, np.ndarray] | None = first
        self._others = others

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed, self._first = self._first or next(self._others, None), None
        return feed


def _feeds(images: Iterable[Tensor], size: InputSize) -> Iterator[dict[str, Any]]:
    for i, image in enumerate(images):
        check_image(image, f"int8[{i}]")
        image = image.detach().float().cpu()
        height, width = size.height or image.shape[1], size.width or image.shape[2]
        if (height, width) != tuple(image.shape[1:]):
            image = torch.nn.functional.interpolate(
                image[None], (height, width), mode="bilinear", antialias=True
            )[0]
        if size.batch is None:
            yield {"image": image.numpy()}
        else:
            yield {"images": image.expand(size.batch, *image.shape).numpy()}
