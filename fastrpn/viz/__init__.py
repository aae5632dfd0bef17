"""Pictures: detections, proposals, anchors, curves.

What draws on images returns uint8 [H,W,3] RGB, for `write_image`; what plots curves writes a PNG.
Files appear whole or not at all.
"""

from fastrpn.data.image_io import write_image

from .curves import plot_losses, plot_pr_curves
from .detections import contact_sheet, draw_detections, draw_target
from .proposals import draw_anchors, draw_proposals
from .video import VideoWriter

__all__ = [
    "VideoWriter",
    "contact_sheet",
    "draw_anchors",
    "draw_detections",
    "draw_proposals",
    "draw_target",
    "plot_losses",
    "plot_pr_curves",
    "write_image",
]
