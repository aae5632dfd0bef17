"""Which anchors are larger than what the network sees when it judges them.

"Make sure the receptive fields of every position on the feature map cover all the anchors it
represents." The paper allows more: "one may still roughly infer the extent of an object if only the
middle of the object is visible" (Faster R-CNN, section 3.3); VGG16 does so for 256 and 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastrpn.analysis.gradient_field import gradient_field
from fastrpn.analysis.receptive_field import ReceptiveField, receptive_field
from fastrpn.models import AnchorGenerator, FasterRCNN, faster_rcnn
from fastrpn.models.structures import list_of_maps

__all__ = [
    "AnchorCoverage",
    "RPNMaps",
    "ReceptiveFieldReport",
    "anchor_coverage",
    "measured_fields",
    "receptive_field_of_model",
    "report_receptive_field",
]


@dataclass(frozen=True)
class AnchorCoverage:
    """One anchor beside the receptive field of its position; pixels."""

    level: int
    box: tuple[float, float, float, float]  # xyxy of the anchor at row 0, column 0
    field: tuple[float, float, float, float]  # xyxy of what that position sees
    share: float  # of the anchor's area, inside the field

    @property
    def covered(self) -> bool:
        """Whether the position sees the whole anchor."""
        x1, y1, x2, y2 = self.box
        left, top, right, bottom = self.field
        return left <= x1 and top <= y1 and x2 <= right and y2 <= bottom

    @property
    def row(self) -> dict[str, Any]:
        """The row of a table; "size" is the square root of the area, "ratio" height / width."""
        width, height = _size(self.box)
        field_width, field_height = _size(self.field)
        return {
            "level": self.level,
            "size": round((width * height) ** 0.5),
            "ratio": f"{height / width:.2g}",
            "anchor": f"{width:.0f}×{height:.0f}",
            "receptive field": f"{field_width:.0f}×{field_height:.0f}",
            "seen": f"{self.share:.0%}",
            "covered": "yes" if self.covered else "no",
        }


@dataclass(frozen=True)
class ReceptiveFieldReport:
    """What each position of a model sees, in the backbone's maps and behind the RPN's 3x3."""

    model: str
    backbone: list[ReceptiveField]  # one for each level
    rpn: list[ReceptiveField]
    anchors: list[AnchorCoverage]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table of anchors."""
        return [anchor.row for anchor in self.anchors]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """The table of levels; centres are the x of the position at column 0."""
        rows = []
        for level, (before, behind) in enumerate(zip(self.backbone, self.rpn, strict=True)):
            anchor = next(anchor for anchor in self.anchors if anchor.level == level)
            rows.append(
                {
                    "level": level,
                    "stride": f"{before.stride[0]:g}",
                    "backbone": f"{before.size[1]:g}×{before.size[0]:g}",
                    "with the RPN's 3×3": f"{behind.size[1]:g}×{behind.size[0]:g}",
                    "field's centre": f"{(behind.x.start + behind.x.stop) / 2:g}",
                    "anchors' centre": f"{(anchor.box[0] + anchor.box[2]) / 2:g}",
                }
            )
        return rows


def anchor_coverage(cells: Tensor, fields: Sequence[ReceptiveField]) -> list[AnchorCoverage]:
    """Compares anchors with receptive fields.

    Args:
        cells: [L, n, 4] xyxy, the anchors of every level at row 0, column 0, as
            ``AnchorGenerator.cells``.
        fields: the receptive field of each of the L levels.

    Raises:
        ValueError: another number of fields than of levels.
    """
    if len(cells) != len(fields):
        raise ValueError(f"cells has {len(cells)} levels, fields {len(fields)}")
    return [
        AnchorCoverage(level, tuple(box), field.box(), _share(box, field.box()))
        for level, (boxes, field) in enumerate(zip(cells.tolist(), fields, strict=True))
        for box in boxes
    ]


def report_receptive_field(name: str, **options: Any) -> ReceptiveFieldReport:
    """The report of a model by its name; nothing is allocated or initialised.

    Args:
        name: as in :func:`fastrpn.models.faster_rcnn`.
        **options: its other arguments: ``preset`` and fields of the configuration.
    """
    with torch.device("meta"):
        model = faster_rcnn(name, 2, **options)
    return receptive_field_of_model(model, name)


def receptive_field_of_model(model: FasterRCNN, name: str = "model") -> ReceptiveFieldReport:
    """The report of a model, its own backbone and anchors included."""
    with torch.device("cpu"):  # the model may be without data
        anchors = AnchorGenerator.of(model.config, model.rpn.strides)
    backbone = RPNMaps(model)
    fields = receptive_field(backbone, model.rpn.head.conv)
    return ReceptiveFieldReport(
        name, receptive_field(backbone), fields, anchor_coverage(anchors.cells, fields)
    )


def measured_fields(name: str, **options: Any) -> list[ReceptiveField]:
    """The fields behind a model's RPN by gradient, to check a report's ``rpn``; slow.

    Args:
        name, **options: as for :func:`report_receptive_field`.
    """
    with torch.device("meta"):
        model = faster_rcnn(name, 2, **options)
    backbone, head = RPNMaps(model).to_empty(device="cpu"), model.rpn.head.conv
    head.to_empty(device="cpu")  # the measurement fills in weights of its own
    strides = model.config.of_rpn(model.rpn.strides)
    return [
        # As many neighbours as a coarser map was upsampled to see it from different places.
        gradient_field(backbone, head, level=level, period=int(strides[-1] // stride))
        for level, stride in enumerate(strides)
    ]


class RPNMaps(nn.Module):
    """A model's backbone with only those maps that its RPN looks at."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.backbone, self.config = model.backbone, model.config

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps, the finest first."""
        return list(self.config.of_rpn(list_of_maps(self.backbone(images))))


def _share(box: Sequence[float], field: Sequence[float]) -> float:
    width = min(box[2], field[2]) - max(box[0], field[0])
    height = min(box[3], field[3]) - max(box[1], field[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(width, 0) * max(height, 0) / area


def _size(box: Sequence[float]) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]
