"""Write a data set, train on it, evaluate, draw what is found."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> None:
    from fastrpn.training.demo import run_demo

    run_demo(options.output, seed=options.seed)
