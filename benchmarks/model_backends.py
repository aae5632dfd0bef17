"""One detector in every runtime: torchvision, its export, ours, and our export.

`OMP_NUM_THREADS=2 python -m benchmarks.model_backends --output benchmarks/results/backends` times
fasterrcnn_resnet50_fpn with equal weights on one image, in shuffled turns in one process; then each
alone in a process of its own from its start to its first detection, with its memory. Writes
`results.json` and `backends.png` and prints the table. Beside the times stands what share of the
detections are the first candidate's: random weights leave many scores nearly equal.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.environment import environment
from benchmarks.model import CLASSES, build_pair, share_found
from benchmarks.plots import DPI
from benchmarks.tables import table
from fastrpn.inference import Predictor
from fastrpn.models.checkpoint import save_weights

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

Detect = Callable[[Tensor], dict[str, Tensor]]

TORCHVISION = "torchvision"
EXPORTS = {  # of torchvision's model: runtime, OpenVINO's precision
    "torchvision, onnxruntime": ("onnxruntime", ""),
    "torchvision, OpenVINO": ("openvino", "f32"),
    "torchvision, OpenVINO, bf16": ("openvino", "bf16"),
}
BACKENDS = {
    f"fastrpn {backend}": {"backend": backend}
    for backend in ("eager", "fused", "compiled", "onnxruntime", "openvino")
} | {"fastrpn fused, bf16": {"backend": "fused", "precision": "bf16"}}
NAMES = (TORCHVISION, *EXPORTS, *BACKENDS)
UNASKED = [name for name in NAMES if not name.endswith(("compiled", "bf16"))]
WEIGHTS, STATE, ONNX = "fastrpn.safetensors", "torchvision.pt", "torchvision.onnx"


def prepare(folder: Path, size: tuple[int, int], exports: bool) -> None:
    """The same random weights as files for every runtime, for images of (height, width)."""
    models = build_pair(size, fine_tuning=False)
    theirs = models[TORCHVISION].eval()
    classes = ["__background__", *(str(i) for i in range(1, CLASSES))]
    save_weights(folder / WEIGHTS, models["fastrpn"], "resnet50_fpn", classes)
    torch.save(theirs.state_dict(), folder / STATE)
    (folder / "size.json").write_text(json.dumps(size))
    if exports:
        image = torch.rand(3, *size)
        torch.onnx.export(theirs, ([image],), folder / ONNX, opset_version=17, dynamo=False)


def open_candidate(name: str, folder: Path) -> Detect:
    """What detects in one image [3, H, W] with the weights in the folder."""
    if name in BACKENDS:
        return Predictor(folder / WEIGHTS, device="cpu", **BACKENDS[name])
    if name in EXPORTS:
        return partial(_detect_onnx, _open_onnx(folder / ONNX, *EXPORTS[name]))
    from torchvision.models import detection

    size = json.loads((folder / "size.json").read_text())
    model = detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size)
    )
    model.load_state_dict(torch.load(folder / STATE))
    return partial(_detect_module, model.eval())


@torch.inference_mode()
def _detect_module(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    return model([image])[0]


def _open_onnx(
    path: Path, runtime: str, precision: str
) -> Callable[[np.ndarray], list[np.ndarray]]:
    threads = torch.get_num_threads()
    if runtime == "openvino":
        import openvino

        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(path, "CPU", options)

        def run(image: np.ndarray) -> list[np.ndarray]:
            outputs = compiled([image])
            return [outputs[i] for i in range(3)]

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return lambda image: session.run(None, {feed: image})


def _detect_onnx(run: Callable, image: Tensor) -> dict[str, Tensor]:
    names = ("boxes", "labels", "scores")
    return dict(zip(names, map(torch.from_numpy, run(image.numpy())), strict=True))


def take_turns(
    candidates: dict[str, Detect], image: Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of every run of each candidate, in another order every round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates.items())
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name, detect in order:
            start = clock()
            detect(image)
            times[name].append(1e3 * (clock() - start))
    return times


def start_alone(name: str, folder: Path) -> dict[str, float]:
    """Seconds from a process's start to its first detection, and its peak memory."""
    command = [sys.executable, "-m", "benchmarks.model_backends", "--alone", name, str(folder)]
    start = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    found = json.loads(child.stdout.splitlines()[-1])
    return {"wall seconds": seconds} | found


def run_alone(name: str, folder: Path) -> None:
    """What the process of :func:`start_alone` does."""
    size = json.loads((folder / "size.json").read_text())
    open_candidate(name, folder)(torch.rand(3, *size))
    status = Path("/proc/self/status").read_text()  # getrusage would have the parent's peak
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"CPU seconds": time.process_time(), "peak megabytes": peak}))


def draw(rows: dict[str, dict], path: Path, title: str) -> None:
    """Bars of the minima, the fastest at the top; a dot is the median."""
    names = sorted(rows, key=lambda name: rows[name]["minimum"], reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1.4))
    colours = ["#30638e" if name.startswith("fastrpn") else "#9a9a9a" for name in names]
    axes.barh(names, [rows[name]["minimum"] for name in names], color=colours, height=0.7)
    axes.plot([rows[name]["median"] for name in names], names, "o", color="#333333", markersize=4)
    axes.set_xlabel("milliseconds for an image: minimum (bar) and median (dot)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _write(path: Path, results: dict) -> None:
    path.write_text(json.dumps(results, indent=1))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/backends"))
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1066), help="of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--candidates", nargs="+", choices=NAMES, default=UNASKED)
    parser.add_argument("--no-start", action="store_true", help="without processes of their own")
    parser.add_argument(
        "--cpu-time", action="store_true", help="instead of the wall's: busy machine"
    )
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.alone:
        run_alone(options.alone[0], Path(options.alone[1]))
        return
    size, clock = tuple(options.size), time.process_time if options.cpu_time else time.perf_counter
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, size, exports=bool(set(EXPORTS) & set(options.candidates)))
        torch.manual_seed(1)
        image = torch.rand(3, *size)
        candidates = {name: open_candidate(name, folder) for name in options.candidates}
        found = {name: detect(image) for name, detect in candidates.items()}  # warms, too
        reference = found[options.candidates[0]]
        times = take_turns(candidates, image, options.rounds, clock)
        rows = {
            name: {
                "minimum": min(runs),
                "median": float(np.median(runs)),
                "runs": runs,
                "same detections": share_found(found[name], reference),
            }
            for name, runs in times.items()
        }
        candidates.clear()
        results = environment() | {"size": size, "clock": clock.__name__, "rows": rows}
        options.output.mkdir(parents=True, exist_ok=True)
        write = partial(_write, options.output / "results.json", results)
        write()
        for name in [] if options.no_start else options.candidates:
            rows[name] |= start_alone(name, folder)
            write()
    title = f"R50-FPN, {size[0]} x {size[1]}, {results['cpu']}, {results['threads']} threads"
    draw(rows, options.output / "backends.png", title)
    columns = [key for key in next(iter(rows.values())) if key != "runs"]
    lines = [
        [name, *(f"{row[key]:.2f}" if row[key] < 10 else f"{row[key]:,.0f}" for key in columns)]
        for name, row in rows.items()
    ]
    print(table([f"ms ({clock.__name__})", *columns], lines, padded=True))


if __name__ == "__main__":
    main()
