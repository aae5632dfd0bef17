"""Draw the nine anchors at one position."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size", type=int, nargs=2, default=(600, 800), metavar=("H", "W"))
    parser.add_argument("--position", type=float, nargs=2, default=(320, 320), metavar=("X", "Y"))
    parser.add_argument("--sizes", type=float, nargs="+", default=(128, 256, 512))
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.5, 1, 2), help="height/width")
    parser.add_argument("--output", type=Path, default=Path("anchors.png"))


def run(options: argparse.Namespace) -> None:
    import torch

    from fastrpn.models.anchors import cell_anchors
    from fastrpn.viz import draw_anchors, write_image

    around_origin = cell_anchors(options.sizes, options.ratios, stride=0, convention="paper")
    anchors = around_origin + torch.tensor(options.position).repeat(2)
    picture = draw_anchors(anchors, tuple(options.image_size), tuple(options.position))
    for x1, y1, x2, y2 in anchors.tolist():
        print(f"{x2 - x1:6.1f} x {y2 - y1:6.1f}   ({x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f})")
    print(f"wrote {write_image(options.output, picture)}")
