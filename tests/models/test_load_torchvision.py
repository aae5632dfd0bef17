"""Weights from torchvision: the same detections, losses and training; ImageNet classifiers."""

import pytest
import torch

from fastrpn.models import faster_rcnn, load_imagenet, load_torchvision

models = pytest.importorskip("torchvision.models")
detection = pytest.importorskip("torchvision.models.detection")

CLASSES = 6
SIZES = {"min_size": 128, "max_size": 200}
# Everything is sampled, so that torchvision's random draws and ours agree.
ALL = 10**7


def torchvision_model(**options):
    torch.manual_seed(0)
    options = {**SIZES, "num_classes": CLASSES, **options}
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    with torch.no_grad():
        # Normalise as a trained network does, so that activations keep their size, ...
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.backbone(torch.rand(2, 3, 128, 160) * 4 - 2)
        for norm in norms:
            norm.momentum = 0.1
        # ... and set scores apart, which are nearly equal in a new network.
        model.rpn.head.cls_logits.weight.mul_(10)
        model.rpn.head.bbox_pred.weight.mul_(10)
        model.roi_heads.box_predictor.cls_score.weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def theirs():
    return torchvision_model().eval()


@pytest.fixture(scope="module")
def ours(theirs):
    model = faster_rcnn("resnet50_fpn", CLASSES, **SIZES).eval()
    load_torchvision(model, theirs.state_dict())
    return model


def random_images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def assert_same_detections(ours, theirs, boxes=1e-3, scores=1e-5):
    assert sum(len(expected["scores"]) for expected in theirs) > 20
    assert len(torch.cat([expected["labels"] for expected in theirs]).unique()) > 1
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.equal(mine["labels"], expected["labels"])
        torch.testing.assert_close(mine["boxes"], expected["boxes"], rtol=0, atol=boxes)
        torch.testing.assert_close(mine["scores"], expected["scores"], rtol=0, atol=scores)


@pytest.mark.parametrize(
    "sizes", [[(128, 200)], [(90, 140), (240, 130)], [(130, 128), (200, 310), (100, 100)]]
)
def test_detections_are_torchvisions(ours, theirs, sizes):
    images = random_images(*sizes)
    with torch.no_grad():
        assert_same_detections(ours(images), theirs(images))


@pytest.mark.slow
def test_detections_of_twenty_images_in_mixed_batches(ours, theirs):
    generator = torch.Generator().manual_seed(7)
    found, expected = [], []
    for count in (1, 2, 3, 4, 1, 2, 3, 4):
        sizes = torch.randint(64, 256, (count, 2), generator=generator).tolist()
        images = [torch.rand(3, *size, generator=generator) for size in sizes]
        with torch.no_grad():
            found += ours(images)
            expected += theirs(images)
    assert len(found) == 20
    assert_same_detections(found, expected)


def test_the_fast_layout_rounds_otherwise_and_detects_the_same(ours, theirs):
    images = random_images((128, 200))
    fast = faster_rcnn("resnet50_fpn", CLASSES, **SIZES).eval()
    assert fast.memory_format == torch.channels_last
    load_torchvision(fast, theirs.state_dict())
    assert fast.memory_format == torch.contiguous_format
    fast.to(memory_format=torch.channels_last)
    assert fast.memory_format == torch.channels_last
    with torch.no_grad():
        for found, expected in zip(fast(images), theirs(images), strict=True):
            # Rounding lets close scores change places, at the end of the list with an outsider.
            assert share_found(found, expected) >= 0.95
            assert share_found(expected, found) >= 0.95


def share_found(these, those) -> float:
    """Share of these detections that are among those: same label, box and score nearly equal."""
    boxes = (these["boxes"][:, None] - those["boxes"]).abs().amax(-1) < 0.1
    scores = (these["scores"][:, None] - those["scores"]).abs() < 5e-3
    labels = these["labels"][:, None] == those["labels"]
    return (boxes & scores & labels).any(1).float().mean().item()


def training_pair():
    options = {"rpn_post_nms_top_n_train": 60, "rpn_pre_nms_top_n_train": 100, **SIZES}
    theirs = torchvision_model(
        rpn_batch_size_per_image=ALL, box_batch_size_per_image=ALL, **options
    )
    ours = faster_rcnn("resnet50_fpn", CLASSES, rpn_batch_size=ALL, box_batch_size=ALL, **options)
    load_torchvision(ours, theirs.state_dict())
    return ours, theirs


def random_targets():
    return [
        {
            "boxes": torch.tensor([[10.0, 20, 90, 110], [100, 5, 180, 80], [30, 60, 60, 100]]),
            "labels": torch.tensor([1, 5, 2]),
        },
        {"boxes": torch.tensor([[15.0, 30, 80, 120]]), "labels": torch.tensor([3])},
    ]


def test_losses_and_gradients_are_torchvisions():
    ours, theirs = training_pair()
    images, targets = random_images((120, 190), (160, 100)), random_targets()
    mine, expected = ours(images, targets), theirs(images, targets)
    assert set(mine) == set(expected)
    for name in expected:
        assert expected[name] > 0
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=1e-6)
    for losses in (mine, expected):
        sum(losses.values()).backward()
    for name in ("backbone.body.conv1", "backbone.body.layer4.0.conv2", "rpn.head.cls_logits"):
        a, b = (model.get_submodule(name).weight.grad for model in (ours, theirs))
        assert (a - b).norm() < 1e-3 * b.norm(), name


def train_as_torchvision_does(model, optimizer, loader):
    """The loop of torchvision's tutorials and reference scripts."""
    model.train()
    history = []
    for images, targets in loader:
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        history.append(losses.item())
    return history


def test_a_training_loop_for_torchvision_trains_ours_to_the_same_losses():
    images, targets = random_images((120, 190), (160, 100)), random_targets()
    for i, target in enumerate(targets):  # what torchvision's data sets give besides
        count = len(target["boxes"])
        target |= {"image_id": i, "area": torch.ones(count), "iscrowd": torch.zeros(count)}
    histories = []
    for model in training_pair():
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)
        histories.append(train_as_torchvision_does(model, optimizer, [(images, targets)] * 2))
    torch.testing.assert_close(*histories, rtol=1e-3, atol=0)
    assert histories[0][-1] < histories[0][0]


def old_names(state_dict):
    """The names of files written before torchvision 0.13, as that of the COCO weights."""
    state_dict = {k: v for k, v in state_dict.items() if "num_batches_tracked" not in k}
    renamed = {}
    for name, value in state_dict.items():
        if name.startswith("rpn.head.conv"):
            name = name.replace("conv.0.0.", "conv.")
        if name.startswith("backbone.fpn"):
            parts = name.split(".")
            name = ".".join(parts[:4] + parts[5:])
        renamed[name] = value
    return renamed


def norms_of(model):
    return [m for m in model.backbone.modules() if hasattr(m, "running_var")]


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_files_old_and_new(theirs, tmp_path, norm):
    """Old ones mean an eps of 0; the norms keep theirs, and the variances make up for it."""
    model = faster_rcnn("resnet50_fpn", CLASSES, backbone_norm=norm)
    torch.save(theirs.state_dict(), tmp_path / "new.pth")
    load_torchvision(model, tmp_path / "new.pth")
    new = {k: v.clone() for k, v in model.state_dict().items()}
    body = {k: v for k, v in theirs.state_dict().items() if k.startswith("backbone.body.")}
    assert all(torch.equal(new[k], v) for k, v in body.items() if k in new)

    for p in model.parameters():
        p.data.zero_()
    torch.save({"model": old_names(theirs.state_dict()), "epoch": 3}, tmp_path / "old.pth")
    for path, eps in (("old.pth", None), ("new.pth", 0.0)):
        load_torchvision(model, tmp_path / path, norm_eps=eps)
        for k, v in model.state_dict().items():
            expected = new[k] - 1e-5 if k.endswith("running_var") else new[k]
            assert torch.equal(expected, v), k
    assert {norm.eps for norm in norms_of(model)} == {1e-5}


def test_weights_that_do_not_fit_change_nothing(theirs):
    model = faster_rcnn("resnet50_fpn", CLASSES + 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cls_score.bias has shape \(6,\), the model's \(7,\)"):
        load_torchvision(model, theirs.state_dict())
    state_dict = theirs.state_dict()
    del state_dict["backbone.body.conv1.weight"]
    with pytest.raises(ValueError, match="backbone.body.conv1.weight is missing"):
        load_torchvision(model, state_dict)
    with pytest.raises(ValueError, match=r"is unknown to the model.* and \d+ more"):
        load_torchvision(faster_rcnn("tiny", CLASSES), theirs.state_dict())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet50_fpn", "resnet50_c4"])
def test_imagenet_weights_of_a_resnet(name, tmp_path):
    classifier = models.resnet50(num_classes=2)
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pth")
    model = faster_rcnn(name, 3, backbone_norm="frozen")
    load_imagenet(model, tmp_path / "resnet50.pth")
    head = model.roi_head.box_head if name == "resnet50_c4" else model.backbone.body
    assert torch.equal(head.layer4[2].conv3.weight, classifier.layer4[2].conv3.weight)
    body = model.backbone.body
    assert torch.equal(body.conv1.weight, classifier.conv1.weight)
    assert torch.equal(
        body.layer3[0].downsample[0].weight, classifier.layer3[0].downsample[0].weight
    )
    with pytest.raises(ValueError, match="conv1.weight is missing"):
        load_imagenet(model, {})


def test_imagenet_weights_of_a_vgg():
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in models.vgg16().state_dict().items()}
    classifier = {k: torch.rand(1).expand(shape) for k, shape in shapes.items()}
    model = faster_rcnn("vgg16", 3)
    load_imagenet(model, classifier)
    assert torch.equal(model.backbone.features[28].weight, classifier["features.28.weight"])
    assert torch.equal(model.roi_head.box_head.fc7.weight, classifier["classifier.3.weight"])
