"""Other libraries' detectors and merging of tiles, unchanged, by torchvision's kernels and by ours.

    python -m benchmarks.real_code [NAME ...]

Each case is a function without arguments that returns arrays. Results are compared before the clock
starts; then both ways take turns, in one thread, and the least CPU time counts, which other work on
the machine changes little. What is not installed is left out. `pip install --no-deps` suffices for
the other libraries: see docs/compatibility.md.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, patch

import numpy as np
import torch
import torchvision  # noqa: F401  before deepforest's modules are replaced for a while
from PIL import Image

from benchmarks.drop_in import QUICK_IMAGE, build
from benchmarks.merging import scene
from fastrpn.ops import accelerate_torchvision

Case = Callable[[], list[np.ndarray]]
RUNS = 3


def facenet_pytorch() -> Case:
    """MTCNN with its weights on a portrait; every position of its first network is a candidate."""
    mtcnn = importlib.import_module("facenet_pytorch").MTCNN
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImportError("scikit-image: not installed")
    image = np.asarray(Image.open(Path(spec.origin).parent / "data" / "astronaut.png"))
    detector = mtcnn(keep_all=True, thresholds=[0.0, 0.7, 0.7])
    return lambda: list(detector.detect(image, landmarks=True))


def effdet() -> Case:
    """EfficientDet-D0 with random weights."""
    torch.manual_seed(0)
    create_model = importlib.import_module("effdet").create_model
    options = {"pretrained": False, "pretrained_backbone": False, "bench_task": "predict"}
    model = create_model("tf_efficientdet_d0", **options).eval()
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))

    def detect() -> list[np.ndarray]:
        with torch.inference_mode():
            return list(model(image).numpy())

    return detect


def deepforest() -> Case:
    """The merging of 20,000 boxes from overlapping windows; its other modules stay unimported."""
    spec = importlib.util.find_spec("deepforest")
    if spec is None or spec.origin is None:
        raise ImportError("deepforest: not installed")
    pandas = importlib.import_module("pandas")
    names = ("", ".utilities", ".datasets", ".datasets.cropmodel", ".utils")
    others = {f"deepforest{name}": MagicMock(__spec__=None) for name in names}
    path = Path(spec.origin).with_name("predict.py")
    predict = ModuleType("deepforest.predict")
    with patch.dict(sys.modules, {name: mock for name, mock in others.items()}):
        exec(compile(path.read_text(), path, "exec"), predict.__dict__)
    boxes, scores, _ = scene(20_000)
    table = pandas.DataFrame(boxes, columns=["xmin", "ymin", "xmax", "ymax"])
    table = table.assign(score=scores, label="Tree", window_xmin=100, window_ymin=50)

    def merge() -> list[np.ndarray]:
        with contextlib.redirect_stdout(io.StringIO()):
            merged = predict.mosiac(table, iou_threshold=0.15)
        return [merged.drop(columns="label").to_numpy(dtype=np.float64)]

    return merge


def ultralytics() -> Case:
    """YOLO's suppression as in validation: every class of every position above 0.001."""
    suppress = importlib.import_module("ultralytics.utils.nms").non_max_suppression
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(1, 4 + 20, 700, generator=generator)  # cxcywh, 20 classes
    predictions[:, :4] *= torch.tensor([640.0, 640, 200, 200])[:, None]
    options = {"conf_thres": 0.001, "iou_thres": 0.7, "multi_label": True, "max_time_img": 60}
    return lambda: [found.numpy() for found in suppress(predictions.clone(), **options)]


def torchvision_detector(name: str) -> Case:
    """One of torchvision's five, with random weights, as benchmarks.drop_in makes them."""
    image = torch.rand(3, *QUICK_IMAGE, generator=torch.Generator().manual_seed(0))
    model, _ = build(name, image)

    def detect() -> list[np.ndarray]:
        with torch.inference_mode():
            return [value.numpy() for value in model([image])[0].values()]

    return detect


CASES = {case.__name__: case for case in (facenet_pytorch, effdet, deepforest, ultralytics)}
KINDS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos")
DETECTORS = {
    f"torchvision {kind}": functools.partial(torchvision_detector, f"{kind}_resnet50_fpn")
    for kind in KINDS
}


def equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def equality(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """ "bits", "rounding" or "no"."""
    if equal(ours, theirs):
        return "bits"
    close = functools.partial(np.allclose, rtol=1e-4, atol=1e-3)
    same = [a.shape for a in ours] == [a.shape for a in theirs] and all(map(close, ours, theirs))
    return "rounding" if same else "no"


def main(names: list[str]) -> None:
    """Prints a table in Markdown, of all cases or of those whose names hold one of the given."""
    torch.set_num_threads(1)
    print("| unchanged code | torchvision, ms | accelerated, ms | gain | equal |")
    print("|---|---|---|---|---|")
    for name, prepare in (CASES | DETECTORS).items():
        if names and not any(part in name for part in names):
            continue
        try:
            run = prepare()
        except ImportError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        results, times = [], ([], [])
        for turn in range(1 + RUNS):
            for series, way in zip(
                times, (contextlib.nullcontext, accelerate_torchvision), strict=True
            ):
                with way():
                    start = time.process_time()
                    found = run()
                    seconds = time.process_time() - start
                if turn:
                    series.append(1e3 * seconds)
                else:
                    results.append(found)  # and warm
        theirs, ours = map(min, times)
        same = equality(results[1], results[0])
        print(f"| {name} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.2f}× | {same} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
