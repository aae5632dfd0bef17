"""Write the proposals of a data set to a file: a trained RPN's, or those of selective search.

`fastrpn train --proposals FILE` trains Fast R-CNN alone on them, `fastrpn eval --proposals FILE`
evaluates a checkpoint on them. With torchrun, processes share the images:
torchrun --nproc-per-node=2 -m fastrpn proposals ...
"""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=["rpn", "selective-search"], default="rpn")
    parser.add_argument("--checkpoint", type=Path, help="whose RPN proposes")
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC or COCO layout")
    parser.add_argument(
        "--image-set", nargs="+", default=["val"], help="a set of the folder, or folder:set"
    )
    parser.add_argument("--limit", type=int, default=2000, help="proposals an image at most")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    parser.add_argument(
        "--recall", action="store_true", help="print the share of objects that they meet"
    )


def run(options: argparse.Namespace) -> None:
    from fastrpn import distributed
    from fastrpn.data import open_dataset
    from fastrpn.models.checkpoint import load_model
    from fastrpn.training.propose import propose_together

    if options.method == "rpn" and options.checkpoint is None:
        raise ValueError("--method rpn needs a --checkpoint")
    with distributed.process_group(options.device):
        model, classes = None, None
        if options.method == "rpn":
            device = distributed.local_device(options.device)
            model, classes = load_model(options.checkpoint, device)
        dataset = open_dataset(options.data, options.image_set, classes, options.on_bad_data)
        proposals, seconds = propose_together(
            dataset, options.method, model, limit=options.limit, workers=options.workers
        )
    if proposals is None:  # the main process has them
        return
    written = proposals.save(options.output)
    average = len(proposals.boxes) / len(proposals)
    print(f"{average:.0f} proposals an image, {1000 * seconds:.0f} ms each: {written}")
    if options.recall:
        _print_recall(proposals, dataset, options.method)


def _print_recall(proposals, dataset, method: str) -> None:
    from fastrpn.analysis import markdown_table, proposal_recall

    targets = [dataset.target(i) for i in range(len(dataset))]
    boxes = [proposals[target["image_id"]][0] for target in targets]
    print(markdown_table(proposal_recall(boxes, targets).rows(method)))
