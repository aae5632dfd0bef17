"""Every model, exported to every format, in every runtime: same detections, seconds, megabytes.

OMP_NUM_THREADS=2 python -m benchmarks.deployment --trained demo --speed
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import cpu_name
from benchmarks.tables import table
from fastrpn.data import open_dataset
from fastrpn.data.tiles import Tiles
from fastrpn.demo.trees import TILE
from fastrpn.deployment import ExportedModel, export
from fastrpn.models import FasterRCNN, faster_rcnn
from fastrpn.models.checkpoint import load_model
from fastrpn.models.config import ModelConfig
from tests.deployment.detectors import MODELS, images_of_mixed_sizes, unmatched

FORMATS = {"torch": "torch", "aoti": "aoti", "onnxruntime": "onnx", "openvino": "onnx"}
RUNTIMES = tuple(FORMATS)  # the format of each

Detect = Callable[[Tensor], dict[str, Tensor]]


class Difference(NamedTuple):
    """What a runtime finds, beside what the model finds."""

    detections: int  # of the model
    unmatched: int  # of either
    images: int  # looked at
    pixel_off: int  # images left out: the runtime resizes them to another size


class Cost(NamedTuple):
    export: float  # seconds
    megabytes: float
    start: float  # seconds until the file is open and has seen its first image


def run_exported(model: FasterRCNN, runtime: str, folder: Path, **size: int) -> tuple[Detect, Cost]:
    """Exports a model, unless the folder has the file of its format, and opens it."""
    path = folder / f"model.{FORMATS[runtime]}.{'onnx' if FORMATS[runtime] == 'onnx' else 'pt2'}"
    start = time.perf_counter()
    if not path.exists():
        export(model, path, format=FORMATS[runtime], **size)
    exported = time.perf_counter() - start
    start = time.perf_counter()
    detect = open_exported(path, runtime)
    detect(torch.rand(3, size.get("height", 300), size.get("width", 400)))
    started = time.perf_counter() - start
    return detect, Cost(exported, path.stat().st_size / 1e6, started)


def open_exported(path: Path, runtime: str) -> Detect:
    """An image -> its detections."""
    opened = ExportedModel(path, runtime="openvino" if runtime == "openvino" else "onnxruntime")

    def detect(image: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return opened([image])[0]

    return detect


def compare(model: FasterRCNN, runtime: str, detect: Detect, images: list[Tensor]) -> Difference:
    """OpenVINO computes the size of a resized image in floats, which for every tenth size is a
    pixel off: such images are left out, and counted."""
    detections = differ = pixel_off = 0
    for image in images:
        if runtime == "openvino" and not same_size_in_floats(model.config, *image.shape[1:]):
            pixel_off += 1
            continue
        with torch.inference_mode():
            expected = model([image])[0]
        detections += len(expected["scores"])
        differ += unmatched(detect(image), expected)
    return Difference(detections, differ, len(images), pixel_off)


def same_size_in_floats(config: ModelConfig, height: int, width: int) -> bool:
    """Whether single precision resizes an image to the size that double precision does."""
    sizes = []
    for number in (np.float32, np.float64):
        scale = number(config.min_size) / number(min(height, width))
        if config.max_size is not None:
            scale = min(scale, number(config.max_size) / number(max(height, width)))
        sizes.append([int(number(side) * scale) for side in (height, width)])
    return sizes[0] == sizes[1]


def pictures_of_demo(folder: Path, number: int) -> tuple[list[Tensor], dict[str, int]]:
    """Shapes of mixed sizes; or tiles of the other place of trees, and their size, since a network
    with timm's "same" padding is exported for one size."""
    if not (folder / "photographs").exists():
        return images_of_mixed_sizes(number, folder / "data/JPEGImages"), {}
    tiles = Tiles(open_dataset(folder / "photographs/test", ""), TILE, 0.4)
    number = min(number, len(tiles))
    images = [tiles[index * len(tiles) // number][0] for index in range(number)]
    return images, {"height": TILE, "width": TILE}


def detections_rows(
    models: dict[str, FasterRCNN], runtimes: list[str], images: list[Tensor], **size: int
) -> Iterator[list[object]]:
    """Unmatched detections of each runtime, seconds to export, megabytes."""
    yield [
        *("model", "detections"),
        *(f"{runtime}: unmatched, export s, MB" for runtime in runtimes),
        "left out (OpenVINO)",
    ]
    for name, model in models.items():
        cells, found = [], {}
        with TemporaryDirectory() as folder:
            for runtime in runtimes:
                detect, cost = run_exported(model, runtime, Path(folder), **size)
                found[runtime] = compare(model, runtime, detect, images)
                seconds = f"{cost.export:.0f}" if cost.export > 1 else "the same file"
                cells += [f"{found[runtime].unmatched}, {seconds}, {cost.megabytes:.1f}"]
        detections = max(difference.detections for difference in found.values())
        left_out = max(difference.pixel_off for difference in found.values())
        yield [name, detections, *cells, f"{left_out} of {len(images)} images"]


def speed_rows(
    models: dict[str, FasterRCNN], runtimes: list[str], height: int, width: int
) -> Iterator[list[object]]:
    """Milliseconds of an image of that size, the least of some runs, and start-up."""
    yield ["model", "runtime", f"ms, {height} x {width}", "start, s", "MB"]
    image = images_of_mixed_sizes(1)[0]
    image = torch.nn.functional.interpolate(image[None], size=(height, width))[0]
    for name, model in models.items():
        for row in _speed_rows(model, runtimes, image):
            yield [name, *row]


def _speed_rows(model: FasterRCNN, runtimes: list[str], image: Tensor) -> Iterator[list[object]]:
    with torch.inference_mode():
        yield ["the model itself", milliseconds(model, [image]), "", ""]
    fixed = {"height": image.shape[1], "width": image.shape[2]}
    for runtime in runtimes:
        for size, label in (({}, "any size"), (fixed, "fixed size")):
            with TemporaryDirectory() as folder:
                detect, cost = run_exported(model, runtime, Path(folder), **size)
                least = milliseconds(detect, image)
            yield [f"{runtime}, {label}", least, f"{cost.start:.2f}", f"{cost.megabytes:.1f}"]


def milliseconds(run: Callable, argument: object, repeats: int = 7) -> str:
    """The least of some runs: a shared machine only adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(argument)
        times.append(time.perf_counter() - start)
    return f"{1000 * min(times):.1f}"


def show(rows: Iterator[list[object]]) -> None:
    """A table whose rows are printed as they come: each takes minutes."""
    print(f"\n{table(next(rows), [])}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, help="folder of `fastrpn demo`: its model, too")
    parser.add_argument("--images", type=int, default=20, help="of mixed sizes, for each model")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--speed", action="store_true", help="measure times, too")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads of {cpu_name()}, torch {torch.__version__}")
    trained, size = {}, {}
    if options.trained:
        trained = {"the demo's, trained": load_model(options.trained / "model/last.pt")[0]}
        pictures, size = pictures_of_demo(options.trained, options.images)
        show(detections_rows(trained, options.runtimes, pictures, **size))
    if options.models:
        models = {name: MODELS[name]() for name in options.models}
        noise = images_of_mixed_sizes(options.images)
        show(detections_rows(models, options.runtimes, noise))
    if options.speed:
        full = {"resnet50_fpn": faster_rcnn("resnet50_fpn", 91).eval()}
        of_any_size = {} if size else trained
        show(speed_rows(of_any_size | full, options.runtimes, 480, 640))


if __name__ == "__main__":
    main()
