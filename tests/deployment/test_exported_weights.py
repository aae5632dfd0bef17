"""What other people's and our own files of weights become when they are exported."""

import pytest
import torch

from fastrpn import cli
from fastrpn.data import generate_synthetic
from fastrpn.deployment.exported_model import ExportedModel
from fastrpn.models.checkpoint import load_checkpoint, load_model
from fastrpn.training import TrainConfig, train
from tests.deployment.detectors import distinct, images_of_mixed_sizes, unmatched


def export_of(path, output, *options):
    cli.main(["export", str(path), "--format", "torch", "--output", str(output), *options])
    return ExportedModel(output)


def test_an_exported_checkpoint_has_its_average_and_so_have_exported_weights(tmp_path):
    data = generate_synthetic(tmp_path / "data", 8, 2, seed=3, image_size=(64, 80), progress=False)
    run = {"data": str(data), "output": str(tmp_path / "run"), "ema": 0.9, "steps": 20}
    quick = {"batch_size": 2, "progress": False, "rehearsal": False, "pictures": 0}
    train(TrainConfig(**run, **quick, val_set=None))
    checkpoint, weights = tmp_path / "run" / "last.pt", tmp_path / "w.safetensors"
    content = load_checkpoint(checkpoint)
    assert not torch.equal(*(next(iter(content[name].values())) for name in ("ema", "weights")))
    cli.main(["export-weights", str(checkpoint), "--output", str(weights)])
    model, classes = load_model(checkpoint)
    images = images_of_mixed_sizes(3)
    with torch.no_grad():
        expected = [model([image])[0] for image in images]
    assert sum(len(result["scores"]) for result in expected) > 100
    for number, path in enumerate((checkpoint, weights)):
        exported = export_of(path, tmp_path / f"{number}.pt2")
        assert exported.metadata.classes == classes
        for image, ours in zip(images, expected, strict=True):
            (found,) = exported([image])
            assert all(torch.equal(found[name], ours[name]) for name in ours)


@pytest.mark.slow
def test_torchvisions_coco_weights_are_exported_with_their_names(tmp_path):
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    theirs = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    torch.save(theirs, tmp_path / "coco.pth")
    model = distinct(load_model(tmp_path / "coco.pth")[0])
    names = {"box_predictor": "roi_heads.box_predictor", "rpn": "rpn.head"}
    predictor, head = model.roi_head.box_predictor.state_dict(), model.rpn.head.state_dict()
    theirs |= {f"{names['box_predictor']}.{name}": value for name, value in predictor.items()}
    for ours, other in (("cls_logits", "cls_logits"), ("bbox_pred", "bbox_pred")):
        theirs |= {f"{names['rpn']}.{other}.{k}": head[f"{ours}.{k}"] for k in ("weight", "bias")}
    torch.save(theirs, tmp_path / "coco.pth")
    exported = export_of(tmp_path / "coco.pth", tmp_path / "coco.pt2")
    assert exported.metadata.classes[1:4] == ["person", "bicycle", "car"]
    assert len(exported.metadata.classes) == 91
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 30, 40), scale_factor=10)[0]
    (found,) = exported([image])
    with torch.no_grad():
        (expected,) = load_model(tmp_path / "coco.pth")[0]([image])
    assert len(expected["scores"]) > 20 and unmatched(found, expected) == 0
