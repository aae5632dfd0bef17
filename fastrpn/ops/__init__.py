"""Detection operators with torchvision's signatures and results, and those torchvision lacks."""

from fastrpn._library import load_torch_operators

load_torch_operators()  # the modules below attach fake kernels and gradients to the operators

from fastrpn.ops.box_iou import box_iou  # noqa: E402

__all__ = ["box_iou"]
