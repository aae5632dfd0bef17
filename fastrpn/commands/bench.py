"""Measure the operators against their peers (in a clone)."""

import argparse
import sys


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small selection, about a minute")
    parser.add_argument("--only", help="ops, separated by commas")
    parser.add_argument("--output", help="folder for results.json and the plots")


def run(options: argparse.Namespace) -> None:
    sys.path.insert(0, "")
    try:
        from benchmarks.run_all import main as run_all
    except ModuleNotFoundError as error:
        raise ImportError(f"run this in a clone of the repository ({error})") from error
    run_all(
        (["--quick"] if options.quick else [])
        + (["--only", options.only] if options.only else [])
        + (["--output", options.output] if options.output else [])
    )
