"""What a training can start from: classifiers, torchvision's detectors, checkpoints."""

import pytest
import torch

from fastrpn.models import (
    PRESETS,
    BoxHead,
    FasterRCNN,
    backbones,
    faster_rcnn,
    load_imagenet,
    load_torchvision,
    load_weights,
)
from fastrpn.models.backbones.resnet import conv_norm
from fastrpn.models.checkpoint import describe_model, save_checkpoint

PAPER = PRESETS["paper"]
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


def first_maps(backbone, images):
    """What the first convolution of a VGG or of a ResNet gives, behind its norm."""
    if hasattr(backbone, "features"):
        return backbone.features[0](images)
    body = getattr(backbone, "body", backbone)
    return conv_norm(images, body.conv1, body.bn1)


@pytest.mark.parametrize(
    ("make", "as_in_caffe"),
    [
        (lambda: backbones.VGG16(), True),
        (lambda: backbones.ResNetC4(18, "frozen"), True),
        (lambda: backbones.VGG16(), False),
    ],
)
def test_a_classifier_sees_in_another_kind_of_input_what_it_saw_in_its_own(make, as_in_caffe):
    torch.manual_seed(0)
    source, backbone = make(), make()
    for value in source.state_dict().values():  # also biases and norms, which begin at 0 and 1
        value.copy_(torch.rand(value.shape) + 0.1)
    config = PRESETS["py-faster-rcnn" if as_in_caffe else "paper"].override(min_size=64)
    model = FasterRCNN(backbone, BoxHead(49 * backbone.out_channels, 8), 2, config).eval()
    weights = getattr(source, "body", source).state_dict()
    load_imagenet(model, weights)
    image = torch.rand(3, 64, 96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PAPER.image_mean, PAPER.image_std))
    with torch.no_grad():
        expected = first_maps(source.eval(), ((image - mean) / std)[None])
        ours = first_maps(backbone, model.transform([image]).images)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inner], expected[inner], rtol=1e-4, atol=1e-3)
    if as_in_caffe:
        load_imagenet(model, weights, adapt_input=False)
    body = getattr(backbone, "body", backbone)
    assert equal(weights, body.state_dict())  # as they are: for the model's own input


def test_a_first_convolution_that_cannot_be_rewritten_is_refused():
    weights = backbones.VGG16().state_dict()
    del weights["features.0.bias"]
    config = PRESETS["py-faster-rcnn"].override(min_size=64)
    model = FasterRCNN(backbones.VGG16(), BoxHead(49 * 512, 8), 2, config)
    with pytest.raises(ValueError, match=r"features.0.weight \[64, 3, 3, 3\]: cannot be rewritten"):
        load_imagenet(model, weights)


def test_old_files_of_torchvision_keep_their_norms(tmp_path):
    """They mean an eps of 0; a checkpoint of the training that follows must mean the same."""
    source = build("resnet18_fpn")
    for name, value in source.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(1e-4, 2e-4)  # where eps matters
    old = {n.replace("roi_head.", "roi_heads.", 1): v for n, v in source.state_dict().items()}
    torch.save(old, tmp_path / "old.pth")
    model, again = build("resnet18_fpn", seed=1), build("resnet18_fpn", seed=2)
    load_torchvision(model, tmp_path / "old.pth")
    load_weights(again, tmp_path / "old.pth")
    meant = [m for m in source.modules() if hasattr(m, "running_var")]
    for net in (model, again):
        norms = [m for m in net.modules() if hasattr(m, "running_var")]
        for norm, right in zip(norms, meant, strict=True):
            assert norm.eps == 1e-5
            scale = 1 / (norm.running_var + norm.eps).sqrt()
            torch.testing.assert_close(scale, 1 / right.running_var.sqrt())  # an eps of 0
            with_eps = 1 / (right.running_var + 1e-5).sqrt()
            assert (with_eps / scale - 1).abs().min() > 0.02


def test_files_that_hold_no_weights(tmp_path):
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(ValueError, match=r"weights .*text\.pth: cannot be read"):
        load_weights(build(), tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"weights .*list\.pth: holds no state dict"):
        load_weights(build(), tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        load_weights(build(), tmp_path / "missing.pth")
