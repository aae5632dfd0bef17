"""Train on annotated images in PASCAL VOC or COCO layout."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    from fastrpn.training.options import add_options

    add_options(parser)


def run(options: argparse.Namespace) -> None:
    from fastrpn import distributed
    from fastrpn.training import train
    from fastrpn.training.options import config_from

    config = config_from(options)
    with distributed.process_group(config.device):
        result = train(config)
        if distributed.is_main():
            print(f"checkpoint: {result.checkpoint}")
