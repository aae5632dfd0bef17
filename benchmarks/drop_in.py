"""accelerate_torchvision: torchvision's own detectors and ultralytics' NMS, unchanged, faster.

The detectors are ResNet-50 FPN models for 91 classes on one 800 x 1088 image. Their weights are
random: the batch norms take the statistics of that image, or features would grow from layer to
layer, and the score threshold is set so that the work behind the backbone is that of an
evaluation. Faster R-CNN passes on 1,000 proposals and keeps `CANDIDATES_A_CLASS` boxes of each
class on average; RetinaNet and FCOS, whose threshold is 0, keep the 1,000 best of each level. The
notes count them.

"Behind the backbone" is the time from the end of the backbone to the detections, taken in the same
runs as the whole: RPN or dense heads, proposals, RoI Align, box head and NMS.
"""

import os
import tempfile
import time

import torch
from torch import Tensor, nn
from torchvision.models import detection

from benchmarks.scenes import anchor_grid, random_objects
from benchmarks.timing import Measurement, calmest, measure, summary
from fastrpn.ops import accelerate_torchvision, box_convert, box_iou

IMAGE, QUICK_IMAGE = (800, 1088), (320, 448)
PARTS = ("whole", "behind the backbone")
CLASSES = 91
CANDIDATES_A_CLASS = 100
DETECTORS = ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]
YOLO_IMAGE, YOLO_OBJECTS = 640, 30
YOLO_CLASSES = 80


def build(name: str, image: Tensor) -> tuple[nn.Module, dict[str, object]]:
    """The detector with random weights and a threshold that leaves it much to do; what it does."""
    torch.manual_seed(0)
    options = {} if "rcnn" in name else {"score_thresh": 0.0}
    height, width = image.shape[1:]
    model = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES,
        min_size=height, max_size=width, **options,
    ).eval()  # fmt: skip
    notes: dict[str, object] = {}
    with torch.inference_mode():
        calibrate(model, image)
        if "rcnn" in name:
            scores = class_scores(model, image)
            candidates = CANDIDATES_A_CLASS * (CLASSES - 1)
            threshold = scores[:, 1:].flatten().topk(candidates).values[-1].item()
            model.roi_heads.score_thresh = threshold
            notes["proposals"] = len(scores)
            notes["candidates"] = int((scores[:, 1:] > threshold).sum())
        notes["detections"] = len(model([image])[0]["boxes"])
    return model, notes


def calibrate(model: nn.Module, image: Tensor) -> None:
    """Sets the batch norms' statistics to those of the image."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model.backbone(model.transform([image])[0].tensors)
    for norm in norms:
        norm.eval()


def class_scores(model: nn.Module, image: Tensor) -> Tensor:
    """`[proposals, classes]` of a Faster, Mask or Keypoint R-CNN."""
    logits: list[Tensor] = []
    hook = model.roi_heads.box_predictor.register_forward_hook(
        lambda module, arguments, outputs: logits.append(outputs[0])
    )
    model([image])
    hook.remove()
    return logits[0].softmax(dim=1)


def same_detections(ours: dict[str, Tensor], theirs: dict[str, Tensor], exact: bool) -> bool:
    """Bit for bit; after RoI Align, which sums in another order, up to rounding."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-3}
    return all(
        mine.shape == wanted.shape and torch.allclose(mine, wanted, **tolerance)
        for mine, wanted in ((ours[key], theirs[key]) for key in ("boxes", "scores", "labels"))
    )


def detector_rows(name: str, height: int, width: int, runs: int) -> list[Measurement]:
    """The whole model and the part behind the backbone, timed in the same alternating runs."""
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    model, notes = build(name, image)
    backbone_ends = []
    model.backbone.register_forward_hook(lambda *_: backbone_ends.append(time.perf_counter()))

    def timed() -> tuple[float, float, dict[str, Tensor]]:
        start = time.perf_counter()
        (found,) = model([image])
        end = time.perf_counter()
        return end - start, end - backbone_ends[-1], found

    def accelerated() -> tuple[float, float, dict[str, Tensor]]:
        with accelerate_torchvision():
            return timed()

    candidates = {"fastrpn": accelerated, "torchvision": timed}

    def take_turns() -> dict[tuple[str, str], list[float]]:
        times = {(library, part): [] for part in PARTS for library in candidates}
        for _ in range(runs):
            for library, run in candidates.items():
                for part, seconds in zip(PARTS, run()[:2], strict=True):
                    times[library, part].append(seconds)
        return times

    with torch.inference_mode():
        first = {library: run()[2] for library, run in candidates.items()}
        assert same_detections(first["fastrpn"], first["torchvision"], exact="faster" not in name)
        wholes = [(library, PARTS[0]) for library in candidates]
        times, again = calmest(take_turns, wholes)
    if again:
        notes["measured again"] = again
    rows = []
    for part in PARTS:
        row = Measurement("drop_in", f"{name} {height} x {width}, {part}", 1, {}, {}, dict(notes))
        for library in candidates:
            row.milliseconds[library], row.spread[library] = summary(times[library, part])
            row.minima[library] = 1e3 * min(times[library, part])
        rows.append(row)
    return rows


def scripted_row(height: int, width: int) -> Measurement:
    """Faster R-CNN through torch.jit.script."""
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    model, notes = build("fasterrcnn_resnet50_fpn", image)
    scripted = torch.jit.script(model)
    with torch.inference_mode():
        row = measure(
            "drop_in",
            f"fasterrcnn_resnet50_fpn {height} x {width}, scripted, whole",
            1,
            dict.fromkeys(("fastrpn", "torchvision"), lambda: scripted([image])[1][0]),
            equal=lambda ours, theirs: same_detections(ours, theirs, exact=False),
            min_runs=3,
            repeat_below=60,
            contexts={"fastrpn": accelerate_torchvision},
        )
    row.notes.update(notes)
    return row


def yolo_predictions(seed: int = 0) -> Tensor:
    """`[1, 84, 8400]` as a YOLO head's: xywh pulled to objects, class scores that follow them."""
    generator = torch.Generator().manual_seed(seed)
    grids = [
        anchor_grid(YOLO_IMAGE // stride, YOLO_IMAGE // stride, stride, [5 * stride])[1::3]
        for stride in (8, 16, 32)
    ]
    cells = torch.cat(grids)  # the squares of each grid
    objects = random_objects(YOLO_OBJECTS, YOLO_IMAGE, seed)
    overlap, nearest = box_iou(cells, objects).max(dim=1)
    boxes = cells + (2 * overlap[:, None]).clamp(max=0.95) * (objects[nearest] - cells)
    boxes = boxes + 2 * torch.randn(boxes.shape, generator=generator)
    labels = torch.randint(YOLO_CLASSES, (YOLO_OBJECTS,), generator=generator)
    logits = torch.randn(len(boxes), YOLO_CLASSES, generator=generator) - 9
    logits[torch.arange(len(boxes)), labels[nearest]] += 10 * overlap + 4
    predictions = torch.cat([box_convert(boxes, "xyxy", "cxcywh"), logits.sigmoid()], dim=1)
    return predictions.T[None].contiguous()


def yolo_row(name: str, seconds: float, **options) -> Measurement | None:
    """ultralytics' non_max_suppression; None where it is not installed."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # it writes its settings
    try:
        from ultralytics.utils.nms import non_max_suppression
    except ImportError:
        return None
    predictions = yolo_predictions()

    def detections() -> Tensor:
        return non_max_suppression(predictions.clone(), max_time_img=60, **options)[0]

    row = measure(
        "drop_in",
        f"ultralytics non_max_suppression, {name}",
        predictions.shape[2],
        dict.fromkeys(("fastrpn", "torchvision"), detections),
        equal=torch.equal,
        seconds=seconds,
        contexts={"fastrpn": accelerate_torchvision},
    )
    scores = predictions[0, 4:] if options.get("multi_label") else predictions[0, 4:].amax(dim=0)
    row.notes["candidates"] = int((scores > options["conf_thres"]).sum())
    row.notes["detections"] = len(detections())
    return row


def run(quick: bool = False) -> list[Measurement]:
    """Three detectors, one of them also scripted, and ultralytics' NMS as it tests and predicts."""
    height, width = QUICK_IMAGE if quick else IMAGE
    rows = []
    for name in DETECTORS[:1] if quick else DETECTORS:
        rows += detector_rows(name, height, width, runs=1 if quick else 3)
    if not quick:
        rows.append(scripted_row(height, width))
    seconds = 0.5 if quick else 3.0
    rows += [
        yolo_row("prediction", seconds, conf_thres=0.25, iou_thres=0.7),
        yolo_row("validation", seconds, conf_thres=0.001, iou_thres=0.7, multi_label=True),
    ]
    return [row for row in rows if row is not None]
