"""The numbers of the Faster R-CNN paper and of py-faster-rcnn, row by row.

The tables below say what the presets must hold, the tests behind them that the numbers do what they
say. Rules with a test file of their own are named in the tables: anchors in models/test_anchors,
labels in models/test_targets, sampling in models/test_sampling, losses in models/test_losses.
"""

import copy
import math
from dataclasses import asdict, replace

import pytest
import torch

from fastrpn.models import PRESETS, faster_rcnn
from fastrpn.models.roi_head import BoxHead, BoxPredictor
from fastrpn.models.rpn import RPNHead
from fastrpn.models.structures import Proposals
from fastrpn.models.transform import ImageTransform
from fastrpn.ops import encode_boxes
from fastrpn.training import TrainConfig
from fastrpn.training.config import lr_factor, read_config_file
from fastrpn.training.setup import new_optimizer

MODEL = [  # field, paper, py-faster-rcnn
    # Image: short side 600; py-faster-rcnn keeps the long side within 1000 and subtracts a mean
    # in BGR from values in 0..255.
    ("min_size", 600, 600),
    ("max_size", None, 1000),
    ("bgr", False, True),
    ("image_mean", (0.485, 0.456, 0.406), (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)),
    # Anchors: three areas, three ratios; the nine boxes are in models/test_anchors.
    ("anchor_sizes", ((128, 256, 512),), ((128, 256, 512),)),
    ("anchor_ratios", (0.5, 1, 2), (0.5, 1, 2)),
    ("anchor_convention", "paper", "py-faster-rcnn"),
    # Anchor labels, on the anchors inside the image.
    ("rpn_positive_iou", 0.7, 0.7),
    ("rpn_negative_iou", 0.3, 0.3),
    ("rpn_train_cross_boundary", False, False),
    # The RPN's batch and loss: N_cls = 256, N_reg = positions (about 2400), lambda = 10; or both
    # sums divided by the sampled count, and smooth L1 with sigma 3, whose beta is 1 / sigma^2.
    ("rpn_batch_size", 256, 256),
    ("rpn_positive_fraction", 0.5, 0.5),
    ("rpn_normalizer", "paper", "sampled"),
    ("rpn_box_weight", 10, 1),
    ("rpn_smooth_l1_beta", 1, 1 / 9),
    # Proposals. The paper names no pre-NMS limit; both take py-faster-rcnn's.
    ("rpn_nms_threshold", 0.7, 0.7),
    ("rpn_pre_nms_top_n_train", 12000, 12000),
    ("rpn_pre_nms_top_n_test", 6000, 6000),
    ("rpn_post_nms_top_n_train", 2000, 2000),
    ("rpn_post_nms_top_n_test", 300, 300),
    ("rpn_min_size", 0, 16),
    ("rpn_min_size_original", False, True),  # 16 * the image's scale
    # Fast R-CNN's regions, targets and layers.
    ("roi_op", "roi_pool", "roi_pool"),
    ("roi_size", 7, 7),
    ("box_batch_size", 128, 128),
    ("box_positive_fraction", 0.25, 0.25),
    ("box_positive_iou", 0.5, 0.5),
    ("box_negative_iou", (0.1, 0.5), (0.1, 0.5)),
    ("box_append_gt", True, True),
    ("box_weights", (10, 10, 5, 5), (10, 10, 5, 5)),  # 1 / (0.1, 0.1, 0.2, 0.2)
    ("box_dropout", 0.5, 0.5),
    ("freeze_below", 3, 3),  # conv1 and conv2 rest
    # Detection.
    ("box_nms_threshold", 0.3, 0.3),
    ("box_score_threshold", 0.05, 0.05),
    ("detections_per_image", 100, 100),
]


@pytest.mark.parametrize(("name", "paper", "py_faster_rcnn"), MODEL)
def test_model_preset(name, paper, py_faster_rcnn):
    assert getattr(PRESETS["paper"], name) == paper
    assert getattr(PRESETS["py-faster-rcnn"], name) == py_faster_rcnn


SGD = {"lr": 0.001, "lr_gamma": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "flip": 0.5}
SGD |= {"warmup_steps": 0, "clip_grad_norm": None, "lr_schedule": "steps"}
TRAINING = [  # preset, schedule, part, steps, last step at the first rate, images in a batch
    ("paper", "joint", None, 80_000, 60_000, 1),
    ("paper", "alternating", "rpn_stage", 80_000, 60_000, 1),
    ("paper", "alternating", "box_stage", 40_000, 30_000, 2),
    ("py-faster-rcnn", "joint", None, 70_000, 50_000, 1),
    ("py-faster-rcnn", "alternating", "rpn_stage", 80_000, 60_000, 1),
    ("py-faster-rcnn", "alternating", "box_stage", 40_000, 30_000, 2),
]


def trained_with(preset, **settings):
    return TrainConfig(preset=preset, **settings)


@pytest.mark.parametrize(("preset", "schedule", "part", "steps", "drop", "batch"), TRAINING)
def test_training_preset(preset, schedule, part, steps, drop, batch):
    config = trained_with(preset, schedule=schedule)
    if part is not None:
        config = TrainConfig(**(config.as_dict() | getattr(config, part)))
    assert SGD.items() <= asdict(config).items()
    assert (config.steps, config.batch_size) == (steps, batch)
    rates = [config.lr * lr_factor(config, step, steps) for step in (0, drop - 1, drop, steps - 1)]
    assert rates == pytest.approx([0.001, 0.001, 0.0001, 0.0001])
    regions = config.model_options.get("box_batch_size", PRESETS[preset].box_batch_size)
    assert regions * batch == 128  # whichever number of images they come from


def test_py_faster_rcnn_measures_box_errors_by_class_in_alternating_training():
    assert trained_with("py-faster-rcnn", schedule="alternating").box_error_by_class
    assert not trained_with("py-faster-rcnn").box_error_by_class


def test_torchvision_preset():
    config = trained_with("torchvision")
    assert (config.epochs, config.batch_size, config.lr) == (26, 16, 0.02)
    assert (config.momentum, config.weight_decay, config.warmup_steps) == (0.9, 1e-4, 1000)
    epoch = 7329  # COCO's 117,266 images
    rates = [lr_factor(config, n * epoch, 26 * epoch) for n in (15, 16, 21, 22)]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01])


def test_what_is_given_goes_before_the_preset():
    config = trained_with("paper", lr=0.5, steps=10, schedule="alternating")
    assert (config.lr, config.steps, config.momentum) == (0.5, 10, 0.9)
    assert "steps" not in config.rpn_stage and "steps" not in config.box_stage
    assert trained_with("paper", epochs=3).steps is None
    assert TrainConfig(data="", output="").lr == trained_with(None).lr == 0.02
    with pytest.raises(ValueError, match="preset must be one of paper, .* got 'coco'"):
        trained_with("coco")


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("schedule", ["joint", "alternating"])
def test_a_preset_means_the_same_from_python_yaml_and_the_command_line(
    preset, schedule, tmp_path, from_command_line
):
    config = TrainConfig(preset=preset, schedule=schedule)
    file = tmp_path / "run.yaml"
    file.write_text(f"preset: {preset}\nschedule: {schedule}\n")
    assert read_config_file(file) == config
    assert from_command_line("--preset", preset, "--schedule", schedule) == config
    assert from_command_line("--config", str(file)) == config
    assert (config.lr, config.batch_size) != (0.02, 8)


def test_what_was_given_wins_also_where_it_equals_the_default(tmp_path, from_command_line):
    given = {"lr": 0.02, "batch_size": 8, "clip_grad_norm": 10.0, "warmup_steps": 100, "epochs": 10}
    config = TrainConfig(preset="paper", **given)
    assert given.items() <= asdict(config).items() and config.steps is None
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\n" + "".join(f"{k}: {v}\n" for k, v in given.items()))
    assert read_config_file(file) == config
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert from_command_line("--preset", "paper", *options) == config
    # The file's goes before the preset of the command line, and an option before the file's.
    file.write_text("lr: 0.02\nbatch_size: 8\n")
    config = from_command_line("--config", str(file), "--preset", "paper", "--batch-size", "4")
    assert (config.lr, config.batch_size, config.momentum, config.steps) == (0.02, 4, 0.9, 80_000)
    assert replace(TrainConfig(preset="paper"), batch_size=2).lr == 0.001
    assert copy.deepcopy(TrainConfig(preset="paper")) == TrainConfig(preset="paper")


# ---- What the numbers do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "size", "resized"),
    [
        ("paper", (375, 500), (600, 800)),
        ("paper", (200, 500), (600, 1500)),
        ("py-faster-rcnn", (375, 500), (600, 800)),
        ("py-faster-rcnn", (200, 500), (400, 1000)),  # the long side would be 1500
    ],
)
def test_image_sizes(preset, size, resized):
    batch = ImageTransform(PRESETS[preset])([torch.zeros(3, *size)])
    assert batch.sizes.tolist() == [list(resized)]


def test_py_faster_rcnn_subtracts_the_mean_in_bgr():
    red = torch.zeros(3, 600, 600)
    red[0] = 1.0
    batch = ImageTransform(PRESETS["py-faster-rcnn"])([red])
    expected = torch.tensor([-102.9801, -115.9465, 255 - 122.7717])
    torch.testing.assert_close(batch.images[0, :, 300, 300], expected, atol=1e-3, rtol=0)


def test_initial_weights():
    torch.manual_seed(0)
    head, predictor = RPNHead(512, 9), BoxPredictor(512, 21)
    for layer, std in (
        (head.conv, 0.01),
        (head.cls_logits, 0.01),
        (head.bbox_pred, 0.01),
        (predictor.cls_score, 0.01),
        (predictor.bbox_pred, 0.001),
    ):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert abs(layer.weight.mean().item()) < 0.1 * std
        assert (layer.bias == 0).all()


def test_both_fully_connected_layers_drop_half_in_training():
    torch.manual_seed(0)
    head = BoxHead(64, 4096, PRESETS["paper"].box_dropout)
    with torch.no_grad():
        for layer in (head.fc6, head.fc7):
            layer.weight.fill_(1.0)
            layer.bias.fill_(1.0)
    outputs = head(torch.ones(2, 64, 1, 1))
    assert (outputs == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    kept = outputs[outputs > 0]  # twice fc7 of twice the kept half of fc6, which is 65
    assert kept.mean().item() == pytest.approx(2 * (4096 * 65 + 1), rel=0.05)
    assert (head.eval()(torch.ones(2, 64, 1, 1)) == 4096 * 65 + 1).all()


def test_sgd_decays_weights_alone():
    model = faster_rcnn("tiny", 3)
    optimizer = new_optimizer(model, trained_with("paper"))
    groups = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert set(groups) == {0.0005, 0.0}
    assert all(p.dim() > 1 for p in groups[0.0005]) and all(p.dim() == 1 for p in groups[0.0])
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_no_gradient_flows_through_the_coordinates_of_proposals():
    torch.manual_seed(0)
    model = faster_rcnn("tiny", 3, min_size=64, rpn_post_nms_top_n_train=20, box_batch_size=8)
    boxes, labels = torch.tensor([[8.0, 8, 40, 50]]), torch.tensor([1])
    losses = model([torch.rand(3, 64, 96)], [{"boxes": boxes, "labels": labels}])
    (losses["loss_classifier"] + losses["loss_box_reg"]).backward()
    assert all(p.grad is None for p in model.rpn.parameters())
    assert model.roi_head.box_predictor.bbox_pred.weight.grad.abs().sum() > 0


def detect(scores, boxes):
    """Detections of the paper's head on an image 1000 x 1000: scores of class 1 of 2, [K]."""
    model = faster_rcnn("tiny", 2, "paper", **{"anchor_sizes": ((16,),)} | ONE_LEVEL)
    scores = torch.tensor(scores)
    logits = torch.stack([torch.zeros_like(scores), torch.log(scores / (1 - scores))], dim=1)
    count = len(scores)
    proposals = Proposals(torch.tensor([boxes]), torch.zeros(1, count), torch.tensor([count]))
    found = model.roi_head.detect(
        logits[None], torch.zeros(1, count, 2, 4), proposals, torch.tensor([[1000, 1000]])
    )
    return found.scores[0, : int(found.counts[0])].tolist()


ONE_LEVEL = {"rpn_levels": 1, "roi_levels": 1}


def test_detections_score_above_5_percent_and_overlap_at_most_30():
    square = [0.0, 0.0, 100.0, 100.0]
    shifted = [0.0, 50.0, 100.0, 150.0]  # IoU 1/3 with it
    far = [0.0, 60.0, 100.0, 160.0]  # IoU 1/4 with the first, more with the second
    assert detect([0.9, 0.8, 0.7, 0.04], [square, shifted, far, [500.0, 0, 600, 100]]) == (
        pytest.approx([0.9, 0.7])
    )
    assert detect([0.051], [square]) == pytest.approx([0.051])
    assert detect([0.049], [square]) == []


def test_at_most_100_detections():
    boxes = [[10.0 * x, 10.0 * y, 10.0 * x + 9, 10.0 * y + 9] for x in range(12) for y in range(12)]
    scores = [0.5 + n / 1000 for n in range(144)]
    assert detect(scores, boxes) == pytest.approx(scores[:43:-1])


def test_box_targets_of_joint_training_are_divided_by_fixed_deviations():
    proposal, truth = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[1.0, 0, 21, 20]])
    x, y, w, h = (11 - 5) / 10, 0.0, math.log(2), 0.0
    targets = encode_boxes(truth, proposal, PRESETS["py-faster-rcnn"].box_weights)
    expected = torch.tensor([[x / 0.1, y / 0.1, w / 0.2, h / 0.2]])
    torch.testing.assert_close(targets, expected)
