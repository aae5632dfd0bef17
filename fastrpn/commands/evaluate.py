"""Evaluate a checkpoint on annotated images in PASCAL VOC or COCO layout."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC or COCO layout")
    parser.add_argument(
        "--image-set", nargs="+", default=["val"], help="a set of the folder, or folder:set"
    )
    parser.add_argument(
        "--proposals", type=Path, help="file of `fastrpn proposals`, instead of the RPN's"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers and curves")


def run(options: argparse.Namespace) -> None:
    import torch

    from fastrpn import distributed
    from fastrpn.data import ProposalSet, WithProposals, open_dataset
    from fastrpn.evaluation import evaluate
    from fastrpn.evaluation.report import print_metrics, write_json
    from fastrpn.models.checkpoint import load_model

    half = options.precision == "bf16"
    with distributed.process_group(options.device):
        device = distributed.local_device(options.device)
        model, classes = load_model(options.checkpoint, device)
        dataset = open_dataset(options.data, options.image_set, classes, options.on_bad_data)
        if options.proposals:
            dataset = WithProposals(dataset, ProposalSet.load(options.proposals))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            metrics = evaluate(
                model, dataset, batch_size=options.batch_size, workers=options.workers
            )
        is_main = distributed.is_main()
    if not is_main:
        return
    print_metrics(metrics)
    if options.output:
        print(f"wrote {write_json(options.output, metrics)}")
