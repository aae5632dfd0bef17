"""How many JPEGs of 640 x 480 `fastrpn detect` takes in a second, and what takes the time.

`OMP_NUM_THREADS=1 python -m benchmarks.detect_files` makes 1,000 pictures of synthetic shapes, runs
the command's own function on them for each model, and prints images a second and the shares of CPU
time of reading, detecting and writing. Weights are random but set apart, so that there is about as
much to draw as with trained ones.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import cv2
import numpy as np
import torch

from benchmarks.environment import cpu_name
from benchmarks.tables import table
from fastrpn.inference import Predictor, media, writers
from fastrpn.inference.detect import detect_files
from fastrpn.models import FasterRCNN, faster_rcnn
from tests.deployment.detectors import distinct

HEIGHT, WIDTH = 480, 640
STAGES = {  # functions that do nothing else, each in one thread at a time
    "reading": (media, "_read"),
    "detecting": (Predictor, "_detect"),
    "writing pictures": (writers.PictureWriter, "add"),
    "writing lines": (writers.ResultLines, "add"),
}


def make_pictures(folder: Path, number: int) -> None:
    """Smooth noise with rectangles: JPEGs of about the size of a photograph's."""
    generator = np.random.default_rng(0)
    for i in range(number):
        coarse = generator.integers(0, 256, (30, 40, 3), np.uint8)
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        noise = generator.integers(-12, 13, picture.shape, np.int16)
        picture = (picture + noise).clip(0, 255).astype(np.uint8)
        for x, y, side in generator.integers(20, 400, (4, 3)):
            colour = generator.integers(0, 256, 3).tolist()
            cv2.rectangle(picture, (int(x), int(y)), (int(x + side), int(y + side)), colour, -1)
        cv2.imwrite(str(folder / f"{i:05}.jpg"), picture)


def build(name: str) -> FasterRCNN:
    """A detector whose scores differ."""
    torch.manual_seed(0)
    return distinct(faster_rcnn(name, 4))


def shares(run: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of each stage while it runs, and the wall's of all."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable) -> Callable:
        @wraps(function)
        def wrapped(*args: object, **kwargs: object) -> object:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] += time.thread_time() - start

        return wrapped

    patches = [
        patch.object(owner, name, timed(stage, getattr(owner, name)))
        for stage, (owner, name) in STAGES.items()
    ]
    for each in patches:
        each.start()
    start, cpu = time.perf_counter(), time.process_time()
    try:
        run()
    finally:
        for each in patches:
            each.stop()
    seconds["rest"] = time.process_time() - cpu - sum(seconds.values())
    return {**seconds, "wall": time.perf_counter() - start}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny", "resnet50_fpn"])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--score-threshold", type=float, default=0.5)
    options = parser.parse_args(arguments)
    lines = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        make_pictures(pictures, options.images)
        for model in options.models:
            detect = Predictor(
                build(model),
                device="cpu",
                batch_size=options.batch_size,
                score_threshold=options.score_threshold,
                backend=options.backend,
            )
            found = shares(
                lambda detect=detect, output=folder / model: detect_files(
                    detect, [pictures], output, progress=False
                )
            )
            wall = found.pop("wall")
            total = sum(found.values())
            stages = [f"{found.get(stage, 0.0) / total:.1%}" for stage in (*STAGES, "rest")]
            lines.append([model, f"{options.images / wall:.1f}", f"{total:.1f}", *stages])
    print(f"{torch.get_num_threads()} threads of {cpu_name()}, {options.images} JPEGs")
    print(table(["model", "images a second", "CPU s", *STAGES, "rest"], lines, padded=True))


if __name__ == "__main__":
    main()
