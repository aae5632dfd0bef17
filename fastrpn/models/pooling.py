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
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def check(self, config: ModelConfig) -> None:
        """Raises ValueError for RoIPool on several levels."""
        strides = self.strides[: config.roi_levels]
        if config.roi_op == "roi_pool" and len(strides) > 1:
            raise ValueError(f"roi_op roi_pool pools from one level, got strides {strides}")

    def forward(self, features: Sequence[Tensor], rois: Tensor, config: ModelConfig) -> Tensor:
        """Maps [B, C, H, W] of all levels, RoIs [N, 5] -> [N, C, size, size].

        What counts of the rules is ``roi_op``, ``roi_size``, ``roi_levels``,
        ``roi_sampling_ratio`` and ``roi_aligned``.
        """
        strides = self.strides[: config.roi_levels]
        scales = [1 / stride for stride in strides]
        if config.roi_op == "roi_pool":
            return ops.roi_pool(features[0], rois, config.roi_size, scales[0])
        levels = None
        if len(scales) > 1:
            finest, coarsest = (int(math.log2(strides[i])) for i in (0, -1))
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
