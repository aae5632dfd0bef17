"""Detection operators with torchvision's signatures and results, and those torchvision lacks."""

from fastrpn._library import load_torch_operators

load_torch_operators()  # the modules below attach fake kernels and gradients to the operators

from fastrpn.ops.accelerate import accelerate_torchvision, restore_torchvision  # noqa: E402
from fastrpn.ops.box_coding import decode_boxes, encode_boxes  # noqa: E402
from fastrpn.ops.box_iou import box_iou  # noqa: E402
from fastrpn.ops.boxes import (  # noqa: E402
    box_area,
    box_convert,
    clip_boxes_to_image,
    remove_small_boxes,
)
from fastrpn.ops.generate_proposals import generate_proposals  # noqa: E402
from fastrpn.ops.iou_variants import (  # noqa: E402
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
)
from fastrpn.ops.match_anchors import match_anchors  # noqa: E402
from fastrpn.ops.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align  # noqa: E402
from fastrpn.ops.nms import batched_nms, nms, nms_padded  # noqa: E402
from fastrpn.ops.roi_align import RoIAlign, roi_align  # noqa: E402
from fastrpn.ops.roi_pool import RoIPool, roi_pool  # noqa: E402
from fastrpn.ops.soft_nms import soft_nms  # noqa: E402

__all__ = [
    "MultiScaleRoIAlign",
    "RoIAlign",
    "RoIPool",
    "accelerate_torchvision",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "complete_box_iou",
    "decode_boxes",
    "distance_box_iou",
    "encode_boxes",
    "generalized_box_iou",
    "generate_proposals",
    "match_anchors",
    "multiscale_roi_align",
    "nms",
    "nms_padded",
    "remove_small_boxes",
    "restore_torchvision",
    "roi_align",
    "roi_pool",
    "soft_nms",
]
