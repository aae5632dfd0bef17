"""Write the proposals of a data set to a file: a trained RPN's, or those of selective search.

`fastrpn train --proposals FILE` trains Fast R-CNN alone on them, `fastrpn eval --proposals FILE`
evaluates a checkpoint on them.
"""

import argparse
from functools import partial
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=["rpn", "selective-search"], default="rpn")
    parser.add_argument("--checkpoint", type=Path, help="whose RPN proposes")
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC or COCO layout")
    parser.add_argument(
        "--image-set", nargs="+", default=["val"], help="a set of the folder, or folder:set"
    )
    parser.add_argument("--limit", type=int, default=2000, help="proposals an image at most")
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    parser.add_argument(
        "--recall", action="store_true", help="print the share of objects that they meet"
    )


def run(options: argparse.Namespace) -> None:
    from rich.progress import track

    from fastrpn.analysis import markdown_table, proposal_recall, propose_dataset
    from fastrpn.data import open_dataset
    from fastrpn.engine import load_model

    model, classes = None, None
    if options.method == "rpn":
        if options.checkpoint is None:
            raise ValueError("--method rpn needs a --checkpoint")
        model, classes = load_model(options.checkpoint)
    dataset = open_dataset(options.data, options.image_set, classes, options.on_bad_data)
    progress = partial(track, description="Proposing")
    proposals, seconds = propose_dataset(
        dataset, options.method, model, limit=options.limit, track=progress
    )
    written = proposals.save(options.output)
    average = len(proposals.boxes) / len(proposals)
    print(f"{average:.0f} proposals an image, {1000 * seconds:.0f} ms each: {written}")
    if options.recall:
        targets = [dataset.target(i) for i in range(len(dataset))]
        boxes = [proposals[target["image_id"]][0] for target in targets]
        print(markdown_table(proposal_recall(boxes, targets).rows(options.method)))
