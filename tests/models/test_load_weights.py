"""What a training can start from: classifiers, torchvision's detectors, checkpoints."""

import pytest
import torch

from fastrpn.engine.checkpoint import describe_model, save_checkpoint
from fastrpn.models import faster_rcnn, load_torchvision, load_weights

SMALL = {"min_size": 64, "max_size": 96, "box_score_threshold": 0.0}


def build(name="tiny", num_classes=3, seed=0):
    torch.manual_seed(seed)
    return faster_rcnn(name, num_classes, **SMALL).eval()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def save(model, path):
    classes = [str(i) for i in range(model.num_classes)]
    described = describe_model("tiny", model, classes)
    return save_checkpoint(path, {"model": described, "weights": model.state_dict()})


def test_a_checkpoint(tmp_path):
    source, model = build(), build(seed=1)
    load_weights(model, save(source, tmp_path / "last.pt"))
    assert equal(model.state_dict(), source.state_dict())
    assert model.memory_format == torch.channels_last


def test_a_checkpoint_with_other_classes_keeps_the_new_last_layers(tmp_path):
    source, model = build(), build(num_classes=6, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_weights(model, save(source, tmp_path / "last.pt"))
    weights = source.state_dict()
    for name, value in model.state_dict().items():
        expected = before if name.startswith("roi_head.box_predictor.") else weights
        assert torch.equal(value, expected[name]), name


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = save(build(), tmp_path / "last.pt")
    with pytest.raises(ValueError, match="state_dict does not fit"):
        load_weights(build("resnet18_fpn"), path)


def test_a_classifier_of_torchvision(tmp_path):
    classifier = pytest.importorskip("torchvision.models").resnet18(num_classes=2)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    model = build("resnet18_fpn")
    load_weights(model, tmp_path / "resnet18.pth")
    body = model.backbone.body
    assert torch.equal(body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_old_files_of_torchvision_keep_their_norms(tmp_path):
    """They mean an eps of 0; a checkpoint of the training that follows must mean the same."""
    source = build("resnet18_fpn")
    for name, value in source.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(1e-4, 2e-4)  # where eps matters
    old = {n.replace("roi_head.", "roi_heads.", 1): v for n, v in source.state_dict().items()}
    torch.save(old, tmp_path / "old.pth")
    expected, model = build("resnet18_fpn", seed=1), build("resnet18_fpn", seed=2)
    load_torchvision(expected, tmp_path / "old.pth")  # sets eps to 0
    load_weights(model, tmp_path / "old.pth")
    norms, meant, without = (
        [m for m in net.modules() if hasattr(m, "running_var")] for net in (model, expected, source)
    )
    for norm, right, wrong in zip(norms, meant, without, strict=True):
        assert norm.eps == 1e-5 and right.eps == 0
        scale, right, wrong = (1 / (n.running_var + n.eps).sqrt() for n in (norm, right, wrong))
        torch.testing.assert_close(scale, right)
        assert (wrong / right - 1).abs().min() > 0.02


def test_files_that_hold_no_weights(tmp_path):
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(ValueError, match=r"weights .*text\.pth: cannot be read"):
        load_weights(build(), tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"weights .*list\.pth: holds no state dict"):
        load_weights(build(), tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        load_weights(build(), tmp_path / "missing.pth")
