"""Say what was built and what was found at run time."""

import argparse
import json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> None:
    from fastrpn.info import collect

    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        print(f"{name:20}{text if text is not None else 'not found'}")
