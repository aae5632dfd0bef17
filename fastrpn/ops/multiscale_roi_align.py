"""RoIAlign over a feature pyramid (Lin et al., Feature Pyramid Networks, section 4.2)."""

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from fastrpn.ops import _rois
from fastrpn.ops._checks import check_not_nan, check_same_device, number_of
from fastrpn.ops._derivatives import call
from fastrpn.ops._modes import leaf, refuse
from fastrpn.ops.boxes import box_area

_roi_align = torch.ops.fastrpn.roi_align.default


def assign_levels(
    boxes: Tensor,
    lowest: int,
    highest: int,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Pyramid level of each box by equation 1 of the FPN paper.

    A box of side `canonical_scale` belongs to `canonical_level`, one of twice the side to the
    level above; levels have strides 2^level. Computed in float32, in float64 for float64.

    Args:
        boxes: [K, 4] xyxy in pixels, float16 to float64.
        lowest, highest: levels there are.
        canonical_scale: positive, in pixels.

    Returns:
        [K] int32, counted from `lowest`; -1, no level, for a box with NaN or one negative side. A
        box whose area overflows is of the highest level, one whose area underflows of the lowest.

    Raises:
        ValueError: `canonical_scale` or `canonical_level` that are none.
    """
    if not 0 < canonical_scale < math.inf:
        raise ValueError(f"canonical_scale: expected a positive number, got {canonical_scale}")
    check_not_nan("canonical_level", canonical_level)
    side = box_area(boxes).sqrt()
    level = (canonical_level + torch.log2(side / canonical_scale) + 1e-6).floor()
    return (level.clamp(lowest, highest) - lowest).nan_to_num(nan=-1.0).to(torch.int32)


@leaf
def multiscale_roi_align(
    inputs: Sequence[Tensor],
    rois: Tensor,
    roi_levels: Tensor | None,
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """`roi_align` where each RoI reads the level it is assigned to, in one operator.

    Args:
        inputs: up to eight levels [N, C, H_i, W_i] of one dtype, float16 to float64.
        rois: [K, 5] batch index and xyxy in pixels; the dtype of `inputs`, or float32 beside a
            half type.
        roi_levels: [K] int32, index into `inputs`; None if there is one level. A RoI whose level
            does not exist gives zeros.
        output_size, sampling_ratio, aligned: as in `roi_align`.
        spatial_scales: cells per pixel of each level.

    Returns:
        [K, C, height, width] in the dtype and layout of `inputs[0]`; differentiable once with
        respect to `inputs`.

    Raises:
        TypeError, ValueError: as `roi_align`; also for levels that do not fit together.
    """
    height, width = _rois.as_pair(output_size)
    if not 1 <= len(inputs) <= 8:
        raise ValueError(f"inputs: expected 1 to 8 levels, got {len(inputs)}")
    if len(spatial_scales) != len(inputs):
        raise ValueError(
            f"spatial_scales: expected one for each of {len(inputs)} levels, "
            f"got {len(spatial_scales)}"
        )
    for index, (level, scale) in enumerate(zip(inputs, spatial_scales, strict=True)):
        _rois.scale_of(scale)
        _rois.check_level(index, level, inputs[0])
    rois = _rois.as_rois(rois, inputs[0])
    if roi_levels is None and len(inputs) > 1:
        raise ValueError(f"roi_levels: needed for {len(inputs)} levels, got None")
    if roi_levels is not None:
        check_same_device("roi_levels", roi_levels, "inputs[0]", inputs[0])
    if roi_levels is not None and (
        roi_levels.dtype != torch.int32 or roi_levels.shape != rois.shape[:1]
    ):
        raise ValueError(
            f"roi_levels: expected int32 of shape [{rois.shape[0]}], "
            f"got {roi_levels.dtype} of shape {list(roi_levels.shape)}"
        )
    _rois.check_sampling_ratio(sampling_ratio)
    samples = (height, width, sampling_ratio, aligned)
    return call(
        _roi_align,
        list(inputs),
        rois,
        roi_levels,
        [number_of(scale) for scale in spatial_scales],
        *samples,
    )


def infer_scales(
    map_sizes: Sequence[tuple[int, int]], image_sizes: Sequence[tuple[int, int]]
) -> list[float]:
    """Cells per pixel of each level of a pyramid, powers of two, from nothing but sizes.

    Sizes are along the longer side of the largest image, where padding and the rounding of a size
    to whole cells matter least. The first map is measured against the image; each other one against
    the map before it, so that one of few cells does not have to tell its stride alone: 40 pixels
    have 10, 5, 3 and 2 cells of 4, 8, 16 and 32 pixels.

    Args:
        map_sizes: (height, width) of each map in cells.
        image_sizes: (height, width) of each image in pixels; the maps are of the largest of them,
            or of a padded one.

    Raises:
        ValueError: no image, none with a pixel, or a map without a cell.
    """
    if not image_sizes:
        raise ValueError("image_shapes: expected the size of each image, got an empty list")
    largest = [max(sizes) for sizes in zip(*image_sizes, strict=True)]
    side = largest.index(max(largest))
    if largest[side] < 1:
        raise ValueError(f"image_shapes: expected sizes in pixels, got {list(image_sizes)}")
    if not all(map_size[side] > 0 for map_size in map_sizes):
        raise ValueError(f"x: expected maps of at least one cell, got {list(map_sizes)}")
    scales, scale, size_before = [], 1.0, largest[side]
    for map_size in map_sizes:
        scale *= 2.0 ** round(math.log2(map_size[side] / size_before))
        size_before = map_size[side]
        scales.append(scale)
    return scales


class MultiScaleRoIAlign(nn.Module):
    """RoIAlign over the levels of a pyramid; as `torchvision.ops.MultiScaleRoIAlign`.

    Scales are powers of two, inferred at each call from the sizes of the maps and of the largest
    image (`infer_scales`; torchvision looks at heights alone, and takes the rounded height of a
    wide image for its scale). The finest and the coarsest map bound the levels. The canonical scale
    and level are those of equation 1 of the FPN paper.

    Example:
        >>> pool = MultiScaleRoIAlign(["0", "1"], output_size=7, sampling_ratio=2)
        >>> maps = {"0": torch.rand(1, 256, 64, 64), "1": torch.rand(1, 256, 32, 32)}
        >>> pool(maps, [torch.tensor([[0.0, 0.0, 100.0, 50.0]])], [(256, 256)]).shape
        torch.Size([1, 256, 7, 7])
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = _rois.as_pair(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level

    def forward(
        self,
        x: Mapping[str, Tensor],
        boxes: Tensor | Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Pools each box from its level.

        Args:
            x: maps [N, C, H_i, W_i] by name, finest first; names not asked for are ignored.
            boxes: a list of N tensors [L_i, 4], xyxy in pixels, or RoIs [K, 5].
            image_shapes: (height, width) of each image before the backbone.

        Returns:
            [K, C, height, width].

        Raises:
            ValueError: none of the maps is there, or no image, or as `roi_align`.
        """
        canonical = (self.canonical_scale, self.canonical_level)
        parameters = (self.output_size, self.sampling_ratio)
        return _pool_from_levels(
            x, boxes, image_shapes, self.featmap_names, *parameters, *canonical
        )

    def __prepare_scriptable__(self) -> NoReturn:
        refuse("multiscale_roi_align")

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


@leaf
def _pool_from_levels(
    x: Mapping[str, Tensor],
    boxes: Tensor | Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    names: Sequence[str],
    output_size: tuple[int, int],
    sampling_ratio: int,
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    maps = [level for name, level in x.items() if name in names]
    if not maps:
        raise ValueError(f"x: expected maps named {names}, got {list(x)}")
    scales = infer_scales([(level.shape[2], level.shape[3]) for level in maps], image_shapes)
    rois = boxes if isinstance(boxes, Tensor) else _rois.boxes_to_rois(boxes)
    levels = None
    if len(maps) > 1:
        lowest, highest = (round(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        levels = assign_levels(rois[:, 1:], lowest, highest, canonical_scale, canonical_level)
    return multiscale_roi_align(maps, rois, levels, output_size, scales, sampling_ratio)
