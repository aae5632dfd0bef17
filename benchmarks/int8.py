"""What bfloat16 and 8 bits gain in time and cost in AP: the trees of `fastrpn demo`.

`OMP_NUM_THREADS=2 python -m benchmarks.int8 demo` calibrates on a hundred tiles of the training
photograph, measures AP on the tiles of the other place and times a tile in shuffled turns.
`--resnet50` times fasterrcnn_resnet50_fpn of random weights on 800 x 1066 pixels, too, calibrated
with noise: of that model the time alone means something.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.environment import cpu_name
from benchmarks.model import build_pair
from benchmarks.model_backends import take_turns
from benchmarks.tables import table
from fastrpn.data import open_dataset
from fastrpn.data.tiles import Tiles
from fastrpn.demo.trees import TILE
from fastrpn.deployment import export
from fastrpn.evaluation.evaluate import evaluate
from fastrpn.inference import Predictor
from fastrpn.models import FasterRCNN
from fastrpn.models.checkpoint import load_model
from fastrpn.models.fused_convolution import can_fuse_on

Detect = Callable[[list[Tensor]], list[dict[str, Tensor]]]


def candidates(
    model: FasterRCNN, calibration: list[Tensor], folder: Path, bf16: bool
) -> dict[str, Detect]:
    """Every precision in every runtime, for images of the size of those of the calibration."""
    height, width = calibration[0].shape[1:]
    size = {"format": "onnx", "height": height, "width": width}
    plain = export(model, folder / "float32.onnx", **size)
    small = export(model, folder / "int8.onnx", int8=calibration, **size)
    print(
        f"{plain.stat().st_size / 1e6:.1f} MB in float32, {small.stat().st_size / 1e6:.1f} in int8"
    )
    opened: dict[str, Detect] = {"eager, float32": Predictor(model, backend="eager")}
    opened["fused, float32"] = Predictor(model, backend="fused")
    if bf16:
        opened["fused, bfloat16"] = Predictor(model, backend="fused", precision="bf16")
    for runtime in ("onnxruntime", "openvino"):
        opened[f"{runtime}, float32"] = Predictor(plain, backend=runtime)
        opened[f"{runtime}, int8"] = Predictor(small, backend=runtime)
    return opened


def rows(
    detectors: dict[str, Detect], image: Tensor, rounds: int, score: Callable[[Detect], list[str]]
) -> list[list[str]]:
    """Minimum and median of each detector's milliseconds, and what ``score`` says of it."""
    calls = {name: partial(detect, [image]) for name, detect in detectors.items()}
    once = {name: lambda _, call=call: call()[0] for name, call in calls.items()}
    scores = {name: score(detect) for name, detect in detectors.items()}  # warms, too
    times = take_turns(once, image, rounds, perf_counter)
    lines = []
    for name, runs in times.items():
        least, median = min(runs), torch.tensor(runs).median().item()
        lines.append([name, f"{least:.1f}", f"{median:.1f}", *scores[name]])
    return lines


def of_trees(folder: Path, rounds: int, bf16: bool) -> None:
    model = load_model(folder / "model/last.pt")[0].eval()
    train = Tiles(open_dataset(folder / "photographs/train", ""), TILE, 0.4)
    test = Tiles(open_dataset(folder / "photographs/test", ""), TILE, 0.0)
    florida = open_dataset(folder / "photographs/florida", "")
    number = min(100, len(train))
    calibration = [train[i * len(train) // number][0] for i in range(number)]

    def score(detect: Detect) -> list[str]:
        found = evaluate(detect, test, progress=False)
        there = evaluate(detect, florida, progress=False)
        return [f"{100 * value:.1f}" for value in (found["AP50"], found["AP"], there["AP50"])]

    with TemporaryDirectory() as files:
        detectors = candidates(model, calibration, Path(files), bf16)
        lines = rows(detectors, test[0][0], rounds, score)
    columns = ["trees, a tile of 400 x 400", "minimum, ms", "median", "AP50", "AP", "Florida AP50"]
    print(table(columns, lines, padded=True))


def of_resnet50(rounds: int, bf16: bool) -> None:
    size = (800, 1066)
    model = build_pair(size, fine_tuning=False)["fastrpn"].eval()
    images = [torch.rand(3, *size) for _ in range(4)]
    with TemporaryDirectory() as files:
        detectors = candidates(model, images, Path(files), bf16)
        lines = rows(detectors, images[0], rounds, lambda detect: [str(len(detect(images[:1])[0]))])
    print(table(["resnet50_fpn, 800 x 1066", "minimum, ms", "median", ""], lines, padded=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of `fastrpn demo`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resnet50", action="store_true")
    options = parser.parse_args()
    bf16 = can_fuse_on(torch.device("cpu"), torch.bfloat16)
    print(f"{torch.get_num_threads()} threads of {cpu_name()}, torch {torch.__version__}")
    of_trees(options.demo, options.rounds, bf16)
    if options.resnet50:
        of_resnet50(options.rounds, bf16)


if __name__ == "__main__":
    main()
