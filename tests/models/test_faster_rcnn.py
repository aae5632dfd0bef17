"""The whole model: calls, losses, detections, checks, and shapes that depend on no value."""

import shutil

import pytest
import torch
from torch import nn

from fastrpn.models import PRESETS, FasterRCNN, ModelConfig, faster_rcnn
from fastrpn.models.roi_head import BoxHead
from fastrpn.models.structures import GroundTruth, ImageBatch, Proposals

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
SMALL = {
    "min_size": 64,
    "max_size": 96,
    "rpn_pre_nms_top_n_train": 100,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size": 16,
}


def images():
    return [torch.rand(3, 64, 96), torch.rand(3, 80, 70)]


def targets():
    return [
        {
            "boxes": torch.tensor([[5.0, 5, 40, 50], [50, 10, 90, 60]]),
            "labels": torch.tensor([1, 3]),
        },
        {"boxes": torch.tensor([[10.0, 20, 60, 70]]), "labels": torch.tensor([2])},
    ]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return faster_rcnn("tiny", 4, **SMALL)


def test_training_gives_torchvisions_losses_and_gradients(model):
    losses = model(images(), targets())
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_detections(model):
    model.eval()
    model.config = model.config.override(box_score_threshold=0.2)
    results = model(images())
    assert len(results) == 2
    for image, result in zip(images(), results, strict=True):
        assert set(result) == {"boxes", "labels", "scores"}
        assert result["boxes"].shape == (len(result["scores"]), 4)
        assert 0 < len(result["scores"]) <= 100
        assert result["labels"].dtype == torch.int64 and result["boxes"].dtype == torch.float32
        assert ((result["labels"] >= 1) & (result["labels"] <= 3)).all()
        assert (result["scores"].diff() <= 0).all() and (result["scores"] > 0.2).all()
        height, width = image.shape[1:]
        limit = torch.tensor([width, height, width, height]) + 1e-3
        assert (result["boxes"] >= 0).all() and (result["boxes"] <= limit).all()


def test_an_image_without_objects(model):
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for batch in ([empty, targets()[1]], [empty, empty]):
        losses = model(images(), batch)
        assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_rpn_box_reg"] == 0 and losses["loss_box_reg"] == 0
    assert losses["loss_objectness"] > 0 and losses["loss_classifier"] > 0


def test_boxes_to_ignore_take_no_part(model):
    batch, with_two, with_one = images(), targets(), targets()
    with_two[0]["ignore"] = torch.tensor([False, True])
    with_one[0] = {name: value[:1] for name, value in with_one[0].items()}
    for objects in (with_two, with_one):  # two slots for both batches, so that draws agree
        objects[1] = {name: torch.cat([value, value]) for name, value in objects[1].items()}
    losses = []
    for objects in (with_two, with_one):
        torch.manual_seed(1)
        losses.append(model(batch, objects))
    assert losses[0] == losses[1]


def test_an_image_alone_and_in_a_batch_of_mixed_sizes_gives_the_same(model):
    # Objects at the padded border may differ in the last digits: convolutions see the padding.
    model.eval()
    image = torch.rand(3, 64, 96)
    alone, together = model([image])[0], model([image, torch.rand(3, 60, 90)])[0]
    assert torch.equal(alone["labels"], together["labels"])
    torch.testing.assert_close(alone["boxes"], together["boxes"], rtol=0, atol=1e-2)


def test_any_module_with_strides_is_a_backbone():
    class Patches(nn.Conv2d):
        strides = (16,)

    backbone = Patches(3, 8, 16, stride=16)
    config = ModelConfig(min_size=64, anchor_sizes=((16.0, 32.0),), box_negative_iou=(0.0, 0.5))
    model = FasterRCNN(backbone, BoxHead(8 * 49, 16), 4, config)
    assert set(model(images(), targets())) == LOSSES


def test_vgg16_has_torchvisions_parameters_and_freezes_below_conv3():
    model = faster_rcnn("vgg16", 21)
    backbone = model.backbone
    shapes = {name: tuple(p.shape) for name, p in backbone.named_parameters()}
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.vgg16()
    expected = {k: tuple(p.shape) for k, p in theirs.named_parameters() if k.startswith("features")}
    assert shapes == expected
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert {name.split(".")[1] for name in frozen} == {"0", "2", "5", "7"}
    assert model.rpn.head.bbox_pred.out_channels == 36
    assert model.roi_head.box_head.fc6.weight.shape == (4096, 512 * 49)
    assert model.config == PRESETS["paper"] and backbone.strides == (16,)
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 512, 4, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: None, "targets must be given in training mode, got None"),
        (lambda t: t[:1], "targets has 1 entries for 2 images"),
        (lambda t: [{"labels": t[0]["labels"]}, t[1]], r"targets\[0\] must be a dict with 'boxes'"),
        (lambda t: [t[0], {**t[1], "boxes": torch.zeros(1, 5)}], r"\[G, 4\], got \(1, 5\)"),
        (
            lambda t: [t[0], {**t[1], "boxes": torch.tensor([[9.0, 0, 5, 5]])}],
            r"targets\[1\]\['boxes'\]\[0\] .* got \[9.0, 0.0, 5.0, 5.0\]",
        ),
        (
            lambda t: [t[0], {**t[1], "boxes": torch.tensor([[0.0, 0, 5, torch.nan]])}],
            r"targets\[1\]\['boxes'\]\[0\] must be finite",
        ),
        (
            lambda t: [{**t[0], "labels": torch.tensor([1, 4])}, t[1]],
            r"targets\[0\]\['labels'\]\[1\] must lie in 1..3, got 4",
        ),
        (
            lambda t: [{**t[0], "labels": torch.tensor([1])}, t[1]],
            r"targets\[0\]\['labels'\] must be \[2\], got \(1,\)",
        ),
        (lambda t: [{**t[0], "ignore": torch.tensor([True])}, t[1]], r"\['ignore'\] must be \[2\]"),
    ],
)
def test_unsound_targets(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(images(), change(targets()))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([], ValueError, "images is empty"),
        ([torch.zeros(64, 96, 3)], ValueError, r"images\[0\] .* got shape \(64, 96, 3\)"),
        (
            [torch.zeros(3, 64, 96, dtype=torch.uint8)],
            TypeError,
            r"images\[0\] must be floating point in 0..1, got torch.uint8",
        ),
        ([[1, 2]], TypeError, r"images\[0\] must be a tensor, got list"),
        (torch.zeros(3, 64, 96), ValueError, r"list of \[3, H, W\], got shape \(3, 64, 96\)"),
    ],
)
def test_unsound_images(model, batch, error, message):
    with pytest.raises(error, match=message):
        model.eval()(batch)


# ---- Fixed shapes: nothing behind the backbone may depend on a value. -------------------------


def padded_batch():
    batch = ImageBatch(torch.rand(2, 3, 64, 96), torch.tensor([[64, 96], [64, 56]]))
    boxes = torch.zeros(2, 3, 4)
    boxes[0, :2] = targets()[0]["boxes"]
    boxes[1, :1] = torch.tensor([[5.0, 10, 50, 60]])
    truth = GroundTruth(boxes, torch.tensor([[1, 3, 0], [2, 0, 0]]), torch.tensor([2, 1]))
    return batch, truth


class Detect(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, sizes):
        return tuple(self.model.detect(ImageBatch(images, sizes)))


def test_detection_exports_and_computes_the_same(model):
    batch, _ = padded_batch()
    model.eval()
    model.config = model.config.override(box_score_threshold=0.2)
    program = torch.export.export(Detect(model), tuple(batch[:2]), strict=False)
    other = ImageBatch(torch.rand(2, 3, 64, 96), torch.tensor([[50, 90], [64, 96]]))
    with torch.no_grad():
        for ours, exported in zip(model.detect(other), program.module()(*other[:2]), strict=True):
            assert torch.equal(ours, exported)


def test_detection_of_each_class_suppresses_its_own_boxes_alone():
    """Three classes on the same boxes, which overlap: one of each class is left."""
    torch.manual_seed(0)
    model = faster_rcnn("tiny", 4, box_score_threshold=0.1).eval()
    boxes = torch.tensor([[[10.0, 10, 60, 60], [12, 10, 62, 60], [100, 100, 150, 150]]])
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.4, 0.2, 0.3], [0.85, 0.05, 0.05, 0.05]])
    proposals = Proposals(boxes, torch.zeros(1, 3), torch.tensor([3]))
    found = model.roi_head.detect(
        scores.log()[None], torch.zeros(1, 3, 4, 4), proposals, torch.tensor([[160, 160]])
    )
    rows = zip(found.labels[0], found.scores[0], found.boxes[0, :, 0], strict=True)
    kept = [tuple(float(value) for value in row) for row in rows][: int(found.counts[0])]
    # Label, score and left edge; class 1 is best in the second box, the others in the first.
    assert sorted(kept) == [pytest.approx(r) for r in ((1, 0.4, 12), (2, 0.3, 10), (3, 0.4, 10))]


@pytest.mark.parametrize("compiled", ["detect", "losses"])
def test_a_pyramid_compiles_without_a_graph_break(compiled):
    torch.manual_seed(0)
    sizes = ((16.0,), (24.0,), (32.0,), (48.0,), (64.0,))
    model = faster_rcnn("resnet18_fpn", 4, **SMALL, anchor_sizes=sizes)
    model.train(compiled == "losses")
    batch, truth = padded_batch()
    function = getattr(model, compiled)
    inputs = (batch,) if compiled == "detect" else (batch, truth)
    with torch.set_grad_enabled(model.training):
        torch.manual_seed(1)
        expected = function(*inputs)
        torch.manual_seed(1)
        ours = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    if compiled == "losses":
        expected, ours = expected.values(), ours.values()
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_detection_compiles_with_inductor(model):
    batch, _ = padded_batch()
    model.eval()
    with torch.no_grad():
        compiled = torch.compile(model.detect, fullgraph=True)(batch)
        for ours, theirs in zip(compiled, model.detect(batch), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_training_step_compiles_without_a_graph_break(model):
    batch, truth = padded_batch()
    compiled = torch.compile(model.losses, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    expected = model.losses(batch, truth)
    torch.manual_seed(1)
    losses = compiled(batch, truth)
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name])


def test_detection_compiles_without_a_graph_break(model):
    batch, _ = padded_batch()
    model.eval()
    with torch.no_grad():
        compiled = torch.compile(model.detect, fullgraph=True, backend="aot_eager")(batch)
        for ours, theirs in zip(compiled, model.detect(batch), strict=True):
            torch.testing.assert_close(ours, theirs)
