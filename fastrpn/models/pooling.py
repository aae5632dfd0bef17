"""Pooling of regions from one feature map or from a pyramid, as the configuration says."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fastrpn import ops
from fastrpn.models.config import ModelConfig
from fastrpn.ops.multiscale_roi_align import assign_levels, multiscale_roi_align

__all__ = ["RegionPooler"]


class RegionPooler(nn.Module):
    """RoIPool or RoIAlign; with several levels each region reads the one that suits its size.

    Args:
        strides: pixels between neighbouring positions, for each level; powers of two where there
            are several.
        config: ``roi_op``, ``roi_size``, ``roi_levels``, ``roi_sampling_ratio``, ``roi_aligned``.

    Raises:
        ValueError: RoIPool on several levels.
    """

    def __init__(self, strides: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = tuple(strides)[: config.roi_levels]
        if config.roi_op == "roi_pool" and len(self.strides) > 1:
            raise ValueError(f"roi_op roi_pool pools from one level, got strides {self.strides}")

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Maps [B, C, H, W] of all levels, RoIs [N, 5] -> [N, C, size, size]."""
        config = self.config
        scales = [1 / stride for stride in self.strides]
        if config.roi_op == "roi_pool":
            return ops.roi_pool(features[0], rois, config.roi_size, scales[0])
        levels = None
        if len(scales) > 1:
            finest, coarsest = (int(math.log2(self.strides[i])) for i in (0, -1))
            levels = assign_levels(rois[:, 1:], finest, coarsest)
        return multiscale_roi_align(
            features[: len(scales)],
            rois,
            levels,
            config.roi_size,
            scales,
            config.roi_sampling_ratio,
            config.roi_aligned,
        )
