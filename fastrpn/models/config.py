"""The numbers that define a Faster R-CNN, and the presets people compare with.

``PAPER`` follows the NIPS 2015 paper (and Fast R-CNN where the paper defers to it),
``PY_FASTER_RCNN`` the authors' Python implementation with joint training, ``TORCHVISION`` the
defaults of ``torchvision.models.detection.FasterRCNN``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar, get_type_hints

from fastrpn.models.typed import checked

__all__ = [
    "C4",
    "PAPER",
    "PRESETS",
    "PY_FASTER_RCNN",
    "TINY",
    "TORCHVISION",
    "ZF_PAPER",
    "ModelConfig",
]

T = TypeVar("T")

_CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


@dataclass(frozen=True)
class ModelConfig:
    """Rules of a Faster R-CNN; the defaults are the paper's.

    Sizes are pixels of the resized image, thresholds are IoUs, ``ratios`` are height / width.
    """

    # Image: the short side becomes min_size unless the long side would exceed max_size.
    min_size: int = 600
    max_size: int | None = None
    size_divisible: int = 32
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False

    # Anchors: one tuple of sizes per feature level of the RPN.
    anchor_sizes: tuple[tuple[float, ...], ...] = ((128.0, 256.0, 512.0),)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_convention: str = "paper"
    # Anchors that are no sizes times ratios: (width, height) of each, again by level.
    anchor_shapes: tuple[tuple[tuple[float, float], ...], ...] | None = None

    # Region proposal network.
    rpn_levels: int | None = None  # coarsest levels to propose from; None: all
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_train_cross_boundary: bool = False
    rpn_batch_size: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_smooth_l1_beta: float = 1.0
    rpn_normalizer: str = "paper"  # "paper": N_cls = 256, N_reg = positions; or "sampled"
    rpn_box_weight: float = 10.0  # the paper's lambda
    rpn_pre_nms_top_n_train: int = 12000
    rpn_pre_nms_top_n_test: int = 6000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 300
    rpn_nms_threshold: float = 0.7
    rpn_min_size: float = 0.0
    rpn_min_size_original: bool = False  # rpn_min_size counts pixels before the image is resized

    # Detection head on the regions (Fast R-CNN).
    roi_op: str = "roi_pool"
    roi_size: int = 7
    roi_levels: int | None = None  # finest levels to pool from; None: all
    roi_sampling_ratio: int = 2  # RoIAlign's samples of a bin in each direction; 0: adaptive
    roi_aligned: bool = False  # RoIAlign shifts by half a pixel
    box_batch_size: int = 128
    box_positive_fraction: float = 0.25
    box_positive_iou: float = 0.5
    box_negative_iou: tuple[float, float] = (0.1, 0.5)  # background has its best IoU in [low, high)
    box_append_gt: bool = True
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_smooth_l1_beta: float = 1.0
    box_dropout: float = 0.5
    box_init: str = "gaussian"  # last layers: 0.01 and 0.001; or "uniform", as nn.Linear starts
    box_score_threshold: float = 0.05
    box_nms: str = "hard"  # or soft-NMS, "linear" or "gaussian" with box_soft_nms_sigma
    box_nms_threshold: float = 0.3
    box_soft_nms_sigma: float = 0.5
    detections_per_image: int = 100

    # Backbone: stages below this one keep their weights (3: VGG's conv1 and conv2 are frozen,
    # ResNet's conv1 and layer1); ResNets normalise by the "batch" or by "frozen" statistics.
    freeze_below: int = 3
    backbone_norm: str = "batch"

    # Feature pyramid: strides of its levels, each twice the one before; channels of all of them.
    # A coarsest level of stride 64 is subsampled from the one before.
    fpn_strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    fpn_channels: int = 256

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, checked(name, getattr(self, name), hint))
        _check_choice("anchor_convention", self.anchor_convention, _ANCHOR_CONVENTIONS)
        _check_choice("rpn_normalizer", self.rpn_normalizer, ("paper", "sampled"))
        _check_choice("roi_op", self.roi_op, ("roi_pool", "roi_align"))
        _check_choice("box_nms", self.box_nms, ("hard", "linear", "gaussian"))
        _check_choice("box_init", self.box_init, ("gaussian", "uniform"))
        _check_choice("backbone_norm", self.backbone_norm, ("batch", "frozen"))
        for name in ("min_size", "rpn_batch_size", "box_batch_size", "detections_per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rpn_positive_fraction", "box_positive_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not self.box_soft_nms_sigma > 0:
            raise ValueError(f"box_soft_nms_sigma must be positive, got {self.box_soft_nms_sigma}")
        for width, height in (shape for level in self.anchor_shapes or () for shape in level):
            if not (width > 0 and height > 0):
                raise ValueError(f"anchor_shapes must be positive, got {width:g} x {height:g}")
        steps = self.fpn_strides
        doubles = all(b == 2 * a for a, b in zip(steps, steps[1:], strict=False))
        if not (steps and doubles and steps[0] in (1, 2, 4, 8, 16, 32) and steps[-1] <= 64):
            raise ValueError(
                "fpn_strides must be powers of two from at most 32 to at most 64, each twice the "
                f"one before, got {steps}"
            )
        if self.fpn_channels < 1:
            raise ValueError(f"fpn_channels must be at least 1, got {self.fpn_channels}")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise ValueError(
                f"rpn_negative_iou {self.rpn_negative_iou} exceeds "
                f"rpn_positive_iou {self.rpn_positive_iou}"
            )

    def override(self, **overrides: Any) -> ModelConfig:
        """A copy with some fields replaced. Lists become tuples (YAML and JSON know no tuples).

        Raises:
            ValueError: a name that is not a field, or a value of another type.
        """
        unknown = set(overrides) - {f.name for f in fields(self)}
        if unknown:
            raise ValueError(f"unknown model option(s): {', '.join(sorted(unknown))}")
        return replace(self, **overrides)

    def of_rpn(self, levels: Sequence[T]) -> Sequence[T]:
        """The part of the levels (maps, strides, ...; the finest first) that the RPN uses."""
        return levels[-(self.rpn_levels or len(levels)) :]


_ANCHOR_CONVENTIONS = ("paper", "torchvision", "py-faster-rcnn")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(ModelConfig)


PAPER = ModelConfig()

PY_FASTER_RCNN = ModelConfig(
    max_size=1000,
    image_mean=(122.7717 / 255, 115.9465 / 255, 102.9801 / 255),
    image_std=_CAFFE_STD,
    bgr=True,
    anchor_convention="py-faster-rcnn",
    rpn_smooth_l1_beta=1 / 9,  # sigma = 3
    rpn_normalizer="sampled",
    rpn_box_weight=1.0,
    rpn_min_size=16.0,
    rpn_min_size_original=True,
    box_negative_iou=(0.1, 0.5),
)

TORCHVISION = ModelConfig(
    min_size=800,
    max_size=1333,
    anchor_sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    anchor_convention="torchvision",
    rpn_train_cross_boundary=True,
    rpn_smooth_l1_beta=1 / 9,
    rpn_normalizer="sampled",
    rpn_box_weight=1.0,
    rpn_pre_nms_top_n_train=2000,
    rpn_pre_nms_top_n_test=1000,
    rpn_post_nms_top_n_train=2000,
    rpn_post_nms_top_n_test=1000,
    rpn_min_size=1e-3,
    roi_op="roi_align",
    roi_levels=4,  # without the pyramid's coarsest, which is the RPN's alone
    box_batch_size=512,
    box_negative_iou=(0.0, 0.5),
    box_smooth_l1_beta=1 / 9,
    box_dropout=0.0,
    box_init="uniform",
    box_nms_threshold=0.5,
    freeze_below=0,
)

# For CPUs and small images.
TINY = ModelConfig(
    min_size=160,
    max_size=160,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.25, 0.25, 0.25),
    anchor_sizes=((26.0, 36.0, 48.0, 64.0),),  # of the synthetic data: recall 0.96 at IoU 0.7
    anchor_ratios=(0.7, 1.0, 1.43),
    rpn_levels=1,
    roi_levels=1,
    rpn_train_cross_boundary=True,
    rpn_smooth_l1_beta=1 / 9,
    rpn_normalizer="sampled",
    rpn_box_weight=1.0,
    rpn_pre_nms_top_n_train=600,
    rpn_pre_nms_top_n_test=600,
    rpn_post_nms_top_n_train=200,
    rpn_post_nms_top_n_test=100,
    rpn_min_size=2.0,
    box_batch_size=48,
    box_positive_fraction=0.5,
    box_negative_iou=(0.0, 0.5),
    box_smooth_l1_beta=1.0,
    box_dropout=0.0,
    box_nms_threshold=0.4,
)

# The authors' ZF net pools 6x6 bins and trains all its layers; detectron2's C4 model is the
# pattern of the other one.
ZF_PAPER = PAPER.override(roi_size=6, freeze_below=0)
C4 = TORCHVISION.override(
    anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),),
    rpn_pre_nms_top_n_train=12000,
    rpn_pre_nms_top_n_test=6000,
    roi_levels=None,
    roi_size=14,
    roi_aligned=True,
)

PRESETS = {"paper": PAPER, "py-faster-rcnn": PY_FASTER_RCNN, "torchvision": TORCHVISION}
