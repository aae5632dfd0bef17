"""Train on annotated images in PASCAL VOC or COCO layout."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    from fastrpn.engine.options import add_options

    add_options(parser)


def run(options: argparse.Namespace) -> None:
    from fastrpn.engine import train
    from fastrpn.engine.options import config_from

    result = train(config_from(options))
    print(f"checkpoint: {result.checkpoint}")
