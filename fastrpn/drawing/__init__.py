"""Pictures: detections, proposals, anchors, curves.

What draws on images returns uint8 [H,W,3] RGB, for `write_image`; what plots curves writes a PNG.
Files appear whole or not at all.
"""

from fastrpn._extras import require

require("train")

from fastrpn.drawing.curves import plot_losses, plot_pr_curves
from fastrpn.drawing.detections import contact_sheet, draw_detections, draw_groups, draw_target
from fastrpn.drawing.proposals import draw_anchors, draw_proposals

__all__ = [
    "contact_sheet",
    "draw_anchors",
    "draw_detections",
    "draw_groups",
    "draw_proposals",
    "draw_target",
    "plot_losses",
    "plot_pr_curves",
]
