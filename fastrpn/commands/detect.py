"""Find objects in images: pictures and COCO results."""

import argparse
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", help="image files or folders of them")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("detections"))
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")


def run(options: argparse.Namespace) -> None:
    from fastrpn.engine import Predictor
    from fastrpn.engine.detect import detect_files

    predictor = Predictor(
        options.checkpoint,
        batch_size=options.batch_size,
        score_threshold=options.score_threshold,
    )
    found = detect_files(predictor, options.images, options.output, options.on_bad_data)
    for message in found.skipped:
        print(f"skipped: {message}", file=sys.stderr)
    print(f"{found.num_detections} objects in {found.num_images} images: {options.output}")
