"""The command line: `fastrpn COMMAND`, also `python -m fastrpn COMMAND`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastrpn._version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; bad input ends with one line and exit code 2, a bug with its traceback."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser(arguments).parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, NotADirectoryError, ImportError) as error:
        if options.debug:
            raise
        print(f"fastrpn: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the command that is asked for gets its options, which may import torch."""
    parser = argparse.ArgumentParser("fastrpn", description="Region proposals and Faster R-CNN.")
    parser.add_argument("--version", action="version", version=f"fastrpn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (run, add_options, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        if name in arguments:
            add_options(command)
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)


def _demo(options: argparse.Namespace) -> None:
    from fastrpn.engine.demo import run_demo

    run_demo(options.output, seed=options.seed)


def _train_options(parser: argparse.ArgumentParser) -> None:
    from fastrpn.engine.options import add_options

    add_options(parser)


def _train(options: argparse.Namespace) -> None:
    from fastrpn.engine import train
    from fastrpn.engine.options import config_from

    result = train(config_from(options))
    print(f"checkpoint: {result.checkpoint}")


def _eval_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-set", default="val")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers and curves")


def _eval(options: argparse.Namespace) -> None:
    from fastrpn.data import VOCDataset
    from fastrpn.engine import evaluate, load_model
    from fastrpn.engine.report import print_metrics, write_json

    model, classes = load_model(options.checkpoint)
    dataset = VOCDataset(options.data, options.image_set, classes, options.on_bad_data)
    metrics = evaluate(model, dataset, batch_size=options.batch_size)
    print_metrics(metrics)
    if options.output:
        print(f"wrote {write_json(options.output, metrics)}")


def _detect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", help="image files or folders of them")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("detections"))
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")


def _detect(options: argparse.Namespace) -> None:
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


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small selection, about a minute")
    parser.add_argument("--only", help="ops, separated by commas")
    parser.add_argument("--output", help="folder for results.json and the plots")


def _bench(options: argparse.Namespace) -> None:
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


def _anchors_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image-size", type=int, nargs=2, default=(600, 800), metavar=("H", "W"))
    parser.add_argument("--position", type=float, nargs=2, default=(320, 320), metavar=("X", "Y"))
    parser.add_argument("--sizes", type=float, nargs="+", default=(128, 256, 512))
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.5, 1, 2), help="height/width")
    parser.add_argument("--output", type=Path, default=Path("anchors.png"))


def _anchors(options: argparse.Namespace) -> None:
    import torch

    from fastrpn.models.anchors import cell_anchors
    from fastrpn.viz import draw_anchors, write_image

    around_origin = cell_anchors(options.sizes, options.ratios, stride=0, convention="paper")
    anchors = around_origin + torch.tensor(options.position).repeat(2)
    picture = draw_anchors(anchors, tuple(options.image_size), tuple(options.position))
    for x1, y1, x2, y2 in anchors.tolist():
        print(f"{x2 - x1:6.1f} x {y2 - y1:6.1f}   ({x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f})")
    print(f"wrote {write_image(options.output, picture)}")


def _info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def _info(options: argparse.Namespace) -> None:
    from fastrpn.info import collect

    facts = collect()
    if options.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        print(f"{name:20}{text if text is not None else 'not found'}")


COMMANDS = {
    "demo": (_demo, _demo_options, "Write a data set, train on it, evaluate, draw what is found."),
    "train": (_train, _train_options, "Train on a folder in PASCAL VOC layout."),
    "eval": (_eval, _eval_options, "Evaluate a checkpoint on a folder in PASCAL VOC layout."),
    "detect": (_detect, _detect_options, "Find objects in images: pictures and COCO results."),
    "bench": (_bench, _bench_options, "Measure the operators against their peers (in a clone)."),
    "anchors": (_anchors, _anchors_options, "Draw the nine anchors at one position."),
    "info": (_info, _info_options, "Say what was built and what was found at run time."),
}
