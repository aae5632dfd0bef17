"""A detector for inference on a CPU: the same detections in less time.

Norms, additions and activations become parts of the convolutions before them, weights are brought
into the order in which they are read, and 3x3 convolutions take fewer multiplications, see
:mod:`fastrpn.models.fused_convolution`. Sums are rounded otherwise: boxes differ by less than a
hundredth of a pixel and scores in the fifth digit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrpn.models.backbones import BackboneWithFPN, FeaturePyramid
from fastrpn.models.faster_rcnn import FasterRCNN
from fastrpn.models.fused_convolution import ACTIVATIONS, FusedConv2d, can_fuse_on
from fastrpn.models.fused_graph import fuse
from fastrpn.models.roi_head import BoxHead
from fastrpn.models.rpn import RPNHead, flatten_maps

__all__ = ["FusedBoxHead", "FusedPyramid", "FusedRPNHead", "fused"]

_EXAMPLE = (1, 3, 96, 128)  # of an image, on which networks are compared


def fused(model: FasterRCNN, dtype: torch.dtype = torch.float32) -> FasterRCNN:
    """A copy of the model for inference; the model itself is not changed.

    Args:
        model: on the CPU.
        dtype: of convolutions and matrix products: float32, or bfloat16 where the CPU has it.

    Raises:
        ValueError: another dtype, or the model is not on a CPU for which oneDNN has the dtype.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype}")
    device = next(model.parameters()).device
    if not can_fuse_on(device, dtype):
        raise ValueError(
            f"fused: the model must be on a CPU for which oneDNN has {dtype}, it is on {device}"
        )
    twin: Any = copy.deepcopy(model).eval().requires_grad_(False)
    image = torch.rand(_EXAMPLE)
    backbone: Any = twin.backbone
    if type(backbone) is BackboneWithFPN and type(backbone.fpn) is FeaturePyramid:
        twin.backbone.body = fuse(backbone.body, image, dtype)
        twin.backbone.fpn = FusedPyramid(backbone.fpn, dtype)
    else:
        strides, channels = backbone.strides, backbone.out_channels
        twin.backbone = fuse(backbone, image, dtype)
        twin.backbone.strides, twin.backbone.out_channels = strides, channels
    twin.rpn.head = FusedRPNHead(twin.rpn.head, dtype)
    _fuse_box_head(twin, image, dtype)
    return twin


def _fuse_box_head(twin: Any, image: Tensor, dtype: torch.dtype) -> None:
    head = twin.roi_head
    if type(head.box_head) is BoxHead:
        head.box_head = FusedBoxHead(head.box_head, dtype)
    else:
        with torch.inference_mode():
            features = twin.features(image)
            rois = torch.tensor([[0.0, 8.0, 8.0, 80.0, 60.0], [0.0, 40.0, 2.0, 64.0, 90.0]])
            pooled = head.pooler(features, rois, twin.config)
        head.box_head = fuse(head.box_head, pooled.clone(), dtype)


class FusedPyramid(FeaturePyramid):
    """A pyramid of fused convolutions; adds without enlarging the coarser map."""

    def __init__(self, pyramid: FeaturePyramid, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # with the convolutions of another pyramid
        self.extra_level = pyramid.extra_level
        self.inner_blocks = nn.ModuleList(
            FusedConv2d(cast(nn.Conv2d, conv), dtype=dtype) for conv in pyramid.inner_blocks
        )
        self.layer_blocks = nn.ModuleList(
            FusedConv2d(cast(nn.Conv2d, conv), dtype=dtype) for conv in pyramid.layer_blocks
        )

    @staticmethod
    def add_enlarged(fine: Tensor, coarse: Tensor) -> Tensor:
        """The same, without the enlarged map where each side is exactly doubled."""
        height, width = coarse.shape[2:]
        if fine.shape[2:] != (2 * height, 2 * width):
            return FeaturePyramid.add_enlarged(fine, coarse)
        cells = fine.unflatten(3, (width, 2)).unflatten(2, (height, 2))
        cells.add_(coarse[:, :, :, None, :, None])
        return fine


class FusedRPNHead(nn.Module):
    """:class:`~fastrpn.models.rpn.RPNHead`; logits and deltas come from one matrix product."""

    weight: Tensor
    bias: Tensor

    def __init__(self, head: RPNHead, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = FusedConv2d(head.conv, activation=ACTIVATIONS[nn.ReLU], dtype=dtype)
        self.convs = nn.ModuleList([self.conv])  # a copy for each level: weights are packed for one
        layers = (head.cls_logits, head.bbox_pred)
        self.num_anchors = head.cls_logits.out_channels
        self.register_buffer("weight", torch.cat([x.weight for x in layers]).flatten(1).to(dtype))
        self.register_buffer("bias", torch.cat([x.get_parameter("bias") for x in layers]).to(dtype))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Feature maps [B, C, H, W] of all levels -> objectness [B, A], deltas [B, A, 4]."""
        objectness, deltas = [], []
        while len(self.convs) < len(features):
            self.convs.append(copy.copy(self.conv))  # shares the weights
        for conv, feature in zip(self.convs, features, strict=False):
            hidden = conv(feature)
            maps = self._predict(hidden).float()
            logits, boxes = maps.split([self.num_anchors, 4 * self.num_anchors], dim=1)
            objectness.append(flatten_maps(logits, 1).squeeze(2))
            deltas.append(flatten_maps(boxes, 4))
        return torch.cat(objectness, dim=1), torch.cat(deltas, dim=1)

    def _predict(self, hidden: Tensor) -> Tensor:
        """[B, C, H, W] in either layout -> [B, 5 n, H, W]."""
        if hidden.is_contiguous():
            maps = torch.matmul(self.weight, hidden.flatten(2)).unflatten(2, hidden.shape[2:])
            return maps + self.bias[:, None, None]
        return F.linear(hidden.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class FusedBoxHead(nn.Module):
    """:class:`~fastrpn.models.roi_head.BoxHead`; reads pooled features as they lie in memory, and
    puts the weights of fc6 in that order instead, once."""

    bias: Tensor

    def __init__(self, head: BoxHead, dtype: torch.dtype) -> None:
        super().__init__()
        head.to(dtype)
        self.register_buffer("bias", head.fc6.bias)
        self.fc7 = head.fc7
        self.out_features = head.out_features
        self._fc6 = torch.contiguous_format, head.fc6.weight

    def forward(self, pooled: Tensor) -> Tensor:
        """[N, C, size, size] in either layout -> [N, width]."""
        layout, weight = self._fc6
        if not pooled.is_contiguous(memory_format=layout):
            maps = weight.unflatten(1, _in_layout(pooled, layout).shape[1:])
            maps = maps if layout == torch.contiguous_format else maps.permute(0, 3, 1, 2)
            layout = _OTHER_LAYOUT[layout]
            weight = _in_layout(maps, layout).flatten(1)
            self._fc6 = layout, weight
        hidden = F.linear(_in_layout(pooled, layout).flatten(1), weight, self.bias)
        return F.relu_(self.fc7(F.relu_(hidden)))


_OTHER_LAYOUT = {
    torch.contiguous_format: torch.channels_last,
    torch.channels_last: torch.contiguous_format,
}


def _in_layout(maps: Tensor, layout: torch.memory_format) -> Tensor:
    """[N, C, H, W] with its dimensions in the order in which the layout has them."""
    return maps.permute(0, 2, 3, 1) if layout == torch.channels_last else maps
