"""What reading costs, and how long a training step waits for its data.

    python -m benchmarks.data_loading

Writes JPEGs of 375 x 500, as VOC's are, and measures

- the CPU time of each stage for an image, in one thread;
- the share of the time that training waits for the loader: with the real model on this machine's
  CPU, and with steps that only sleep, as seen from a CPU whose GPU is busy for that long.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.tables import table
from fastrpn.data import (
    ColorJitter,
    RandomHorizontalFlip,
    ResizeShortSide,
    augmentation,
    build_loader,
    generate_synthetic,
    open_dataset,
)
from fastrpn.images import image_to_tensor, read_image
from fastrpn.models import faster_rcnn

COLOURS = (0.4, 0.4, 0.4, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--step-ms", type=float, nargs="+", default=[200, 400, 800])
    parser.add_argument("--model", default="resnet18_fpn")
    parser.add_argument("--model-steps", type=int, default=3, help="0 leaves the model out")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate_synthetic(folder, options.images, 1, image_size=(375, 500), progress=False)
        dataset = open_dataset(folder, "train")
        stages = stage_table(dataset)
        waits = wait_table(dataset, options)
        for rows in (stages, waits):
            print(table(list(rows[0]), (row.values() for row in rows), padded=True), end="\n\n")
    if options.output:
        options.output.write_text(json.dumps({"stages": stages, "waits": waits}, indent=1))


def stage_table(dataset) -> list[dict]:
    """Milliseconds of CPU time an image, by stage."""
    cv2.setNumThreads(0)
    samples = [(sample.image_path, dataset.target(i)) for i, sample in enumerate(dataset.samples)]
    rng = np.random.default_rng(0)
    rows, before = [], []

    def stage(name: str, function: Callable, inputs: list) -> list:
        outputs = [function(*arguments) for arguments in inputs]
        start = time.process_time()
        for arguments in inputs:  # results are dropped, as in training, so that memory is reused
            function(*arguments)
        milliseconds = 1000 * (time.process_time() - start) / len(inputs)
        rows.append({"stage": name, "ms an image": f"{milliseconds:.2f}"})
        before.append(milliseconds)
        return outputs

    arrays = stage("decode the JPEG", read_image, [(path,) for path, _ in samples])
    images = stage("to float32 [3, H, W]", image_to_tensor, [(array,) for array in arrays])
    inputs = [(image, target, rng) for image, (_, target) in zip(images, samples, strict=True)]
    stage("flip", RandomHorizontalFlip(1.0), inputs)
    stage("colour jitter", ColorJitter(*COLOURS), inputs)
    stage("resize to 600 x 800", ResizeShortSide(600, 1000), inputs)
    total = sum(before)
    rows.append({"stage": "all", "ms an image": f"{total:.2f}"})
    rows.append({"stage": "images a second a worker", "ms an image": f"{1000 / total:.0f}"})
    return rows


def wait_table(dataset, options: argparse.Namespace) -> list[dict]:
    """Share of the time spent waiting, for each kind of step and each number of workers."""
    steps: dict[str, Callable] = {
        f"sleeps {milliseconds:g} ms": lambda *_, ms=milliseconds: time.sleep(ms / 1000)
        for milliseconds in options.step_ms
    }
    rows = [
        {"step": name} | {f"{w} workers": share(dataset, w, options, step) for w in options.workers}
        for name, step in steps.items()
    ]
    if options.model_steps:
        train = training_step(options.model, len(dataset.classes))
        name = f"{options.model} on this CPU"
        rows.append(
            {"step": name}
            | {
                f"{w} workers": share(dataset, w, options, train, options.model_steps)
                for w in options.workers
            }
        )
    return rows


def share(dataset, workers: int, options, step: Callable, steps: int | None = None) -> str:
    """Waiting during `steps` steps, or an epoch, after the first batch: workers start with it."""
    loader = build_loader(
        dataset,
        options.batch_size,
        shuffle=True,
        seed=0,
        workers=workers,
        transform=augmentation(0.5, COLOURS, (480, 600, 720), 1000),
        drop_last=True,
        sizes=dataset.sizes,
    )
    batches = iter(loader)
    next(batches)
    before, start = loader.waited, time.perf_counter()
    for images, targets in islice(batches, steps):
        step(images, targets)
    return f"{(loader.waited - before) / (time.perf_counter() - start):.1%}"


def training_step(name: str, num_classes: int) -> Callable:
    """Forward, backward and update of a model."""
    torch.manual_seed(0)
    model = faster_rcnn(name, num_classes)
    model.transform.resizes_training_images = False
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(images: list[torch.Tensor], targets: list[dict]) -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
