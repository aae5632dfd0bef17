"""The whole detector on a GPU, beside torchvision's with the same weights."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from benchmarks.cuda_timing import Call, Case
from fastrpn.inference.cuda_graph import graphed
from fastrpn.models import faster_rcnn, load_torchvision

CLASSES = 91


def both_models(image: Tensor, **options):
    """(ours, torchvision's) on the image's device, with the same random weights."""
    torch.manual_seed(0)
    sizes = {"min_size": min(image.shape[1:]), "max_size": max(image.shape[1:])}
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, **sizes, **options
    )
    ours = faster_rcnn("resnet50_fpn", CLASSES, **sizes)
    load_torchvision(ours, theirs.state_dict())
    ours.to(memory_format=torch.channels_last)
    return ours.to(image.device), theirs.to(image.device)


def detect(which: int, dtype: torch.dtype | None = None, graph: bool = False):
    """Times detections of a batch as lists, in autocast if a dtype is given."""

    def prepare(*images: Tensor) -> Call:
        model, device = both_models(images[0])[which].eval(), images[0].device.type
        run = graphed(model) if graph else model

        def call():
            with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                return run(list(images))

        return call

    return prepare


def train_step(which: int, dtype: torch.dtype | None = None):
    """Times losses, gradients and the update."""

    def prepare(*images: Tensor) -> Call:
        model = both_models(images[0])[which].train()
        device = images[0].device
        boxes = torch.tensor([[2.0, 3, 50, 60], [40, 10, 90, 60]], device=device)
        labels = torch.tensor([1, 2], device=device)
        targets = [{"boxes": boxes, "labels": labels} for _ in images]
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-5, momentum=0.9, foreach=True)

        def call():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                loss = sum(model(list(images), targets).values())
            loss.backward()
            optimizer.step()
            return loss.detach()

        return call

    return prepare


def images(count: int, dry: bool) -> list[Tensor]:
    """Random images of 800 x 1333, the size that detectors are compared at."""
    generator = torch.Generator().manual_seed(0)
    height, width = (64, 96) if dry else (800, 1333)
    return [torch.rand(3, height, width, generator=generator) for _ in range(count)]


def inference_cases(dry: bool) -> Iterator[Case]:
    half = torch.bfloat16
    for count in [1] if dry else [1, 8]:
        libraries = {"fastrpn": detect(0), "torchvision": detect(1)}
        if not dry:  # graphs need a GPU, half types would take a CPU too long
            libraries |= {
                "fastrpn graph": detect(0, graph=True),
                "fastrpn bfloat16": detect(0, half),
                "fastrpn bfloat16 graph": detect(0, half, graph=True),
                "torchvision bfloat16": detect(1, half),
            }
        make = partial(images, count, dry)
        work = f"inference, {count} images"
        targets = {"× torchvision": (2, None)}
        yield Case("model", work, count, make, libraries, targets, comparable=False)


def training_cases(dry: bool) -> Iterator[Case]:
    libraries = {"fastrpn": train_step(0), "torchvision": train_step(1)}
    if not dry:
        libraries["fastrpn bfloat16"] = train_step(0, torch.bfloat16)
        libraries["torchvision bfloat16"] = train_step(1, torch.bfloat16)
    count = 1 if dry else 4
    make = partial(images, count, dry)
    work = f"training step, {count} images"
    targets = {"× torchvision": (2, None)}
    yield Case("model", work, count, make, libraries, targets, comparable=False)


ALL = (inference_cases, training_cases)
