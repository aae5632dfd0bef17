"""Find objects in images and videos: pictures, COCO results, a table.

With torchrun, processes share the files: torchrun --nproc-per-node=2 -m fastrpn detect ...
"""

import argparse
import sys
from datetime import timedelta
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", help="images, videos or folders of them")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("detections"))
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=["pictures", "json", "csv"],
        default=["pictures", "json"],
        help="what to write: pictures and videos with boxes, detections.json, detections.csv",
    )
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--cuda-graph", action="store_true", help="one graph a shape of batch")
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")


def run(options: argparse.Namespace) -> None:
    from fastrpn import distributed
    from fastrpn.inference import Predictor
    from fastrpn.inference.detect import detect_files

    # Shares may take very different times: a long video is not divided.
    with distributed.process_group(options.device, patience=timedelta(days=7)):
        predictor = Predictor(
            options.checkpoint,
            device=distributed.local_device(options.device),
            batch_size=options.batch_size,
            score_threshold=options.score_threshold,
            precision=options.precision,
            cuda_graph=options.cuda_graph,
        )
        found = detect_files(
            predictor, options.files, options.output, options.on_bad_data, formats=options.formats
        )
        if not distributed.is_main():
            return
    for message in found.skipped:
        print(f"skipped: {message}", file=sys.stderr)
    print(f"{found.num_detections} objects in {found.num_images} images: {options.output}")
