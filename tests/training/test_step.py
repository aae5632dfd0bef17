"""One optimizer step: accumulation and bfloat16."""

import contextlib
import dataclasses
import json
import math

import pytest
import torch
from additive import gradient, make_config, make_trainer, note_images

from fastrpn.data import FromTorchvision, generate_synthetic
from fastrpn.models import faster_rcnn
from fastrpn.training import TrainConfig, Trainer, train
from fastrpn.training.objectives import RPNObjective


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 9, 2, seed=3, image_size=(64, 64), progress=False)


def test_accumulated_gradients_equal_those_of_the_whole_batch(data, tmp_path):
    whole = gradient(make_trainer(make_config(data, tmp_path / "a", batch_size=4)))
    parts = gradient(make_trainer(make_config(data, tmp_path / "b", batch_size=1, accumulate=4)))
    assert whole.norm() > 0.1
    assert (parts - whole).norm() < 1e-5 * whole.norm()


def test_accumulation_takes_the_images_of_the_whole_batch(data, tmp_path):
    histories, images = [], []
    for name, batches in (("whole", (4, 1)), ("parts", (2, 2))):
        batch_size, accumulate = batches
        config = make_config(data, tmp_path / name, batch_size=batch_size, accumulate=accumulate)
        trainer = make_trainer(dataclasses.replace(config, val_set=None))
        images.append(note_images(trainer))
        histories.append(trainer.run().history)
    assert images[0] == images[1]
    assert [entry["epoch"] for entry in histories[1]] == [0, 0, 1, 1]
    for whole, parts in zip(*histories, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_too_many_batches_to_accumulate_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="accumulate must be at most the 2 batches .* got 3"):
        make_trainer(make_config(data, tmp_path, accumulate=3))


def test_bfloat16_is_close_to_float32(data, tmp_path):
    losses, boxes = {}, []
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(make_config(data, tmp_path / precision, precision=precision))
        trainer.model.rpn.register_forward_hook(lambda _, __, found: boxes.append(found[0].boxes))
        trainer.objective.train()
        _, losses[precision] = trainer.update(next(trainer.batches()))
    assert all(box.dtype == torch.float32 for box in boxes)
    for name, value in losses["fp32"].items():
        rounded = losses["bf16"][name]
        assert rounded.dtype == torch.float32
        assert float(rounded) == pytest.approx(float(value), rel=0.02, abs=1e-3)
        assert float(rounded) != float(value)  # autocast did something
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_float16_leaves_out_steps_that_overflow_and_resumes_bit_for_bit(data, tmp_path):
    settings = {"precision": "fp16", "val_set": None, "log_every": 1, "steps": 6}
    config = make_config(data, tmp_path / "whole", **settings, rehearsal=True)
    whole = make_trainer(config)
    whole.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    before = [p.clone() for p in whole.model.parameters()]
    moved = []
    take_step = whole._take_step

    def noting(parts):
        take_step(parts)
        after = [p.clone() for p in whole.model.parameters()]
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)))
        before[:] = after

    whole._take_step = noting
    history = whole.run().history
    left_out = [not math.isfinite(entry["grad_norm"]) for entry in history]
    assert any(left_out) and [not m for m in moved] == left_out
    scales = [entry["grad_scale"] for entry in history]
    for before_step, after_step, out in zip([2.0**40, *scales], scales, left_out, strict=False):
        assert after_step == before_step / 2 if out else after_step >= before_step
    sums = [sum(v for k, v in entry.items() if k.startswith("loss_")) for entry in history]
    assert all(map(math.isfinite, sums))

    config = make_config(data, tmp_path / "parts", **settings, checkpoint_every=3)
    first = make_trainer(config)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    take = first._take_step

    def stopping(parts):
        if first.step == 3:
            raise KeyboardInterrupt
        take(parts)

    first._take_step = stopping
    with pytest.raises(KeyboardInterrupt):
        first.run()
    resumed = make_trainer(dataclasses.replace(config, resume=True))
    assert resumed.scaler.get_scale() == scales[2]
    assert json.dumps(resumed.run().history) == json.dumps(history)  # NaN is no NaN's equal
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_adamw_learns_and_decays_no_biases(data, tmp_path):
    config = make_config(data, tmp_path, optimizer="adamw", lr=1e-3, steps=8, val_set=None)
    trainer = make_trainer(config)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    decays = [group["weight_decay"] for group in trainer.optimizer.param_groups]
    assert decays == [config.weight_decay, 0.0]
    sums = [sum(v for k, v in e.items() if k.startswith("loss_")) for e in trainer.run().history]
    assert sum(sums[-3:]) < 0.9 * sum(sums[:3])


def test_bfloat16_learns(data, tmp_path):
    config = TrainConfig(
        data=str(data),
        output=str(tmp_path),
        model_options={"min_size": 64, "max_size": 64, "box_batch_size": 16},
        precision="bf16",
        batch_size=2,
        steps=12,
        warmup_steps=2,
        flip=0.0,
        val_set=None,
        rehearsal=False,
        progress=False,
    )
    history = train(config).history
    sums = [sum(v for k, v in entry.items() if k.startswith("loss_")) for entry in history]
    assert sum(sums[-3:]) < 0.8 * sum(sums[:3])


BOX = [5.0, 5.0, 40.0, 50.0]


@pytest.mark.parametrize("objective", ["model", "rpn"])
@pytest.mark.parametrize(
    ("boxes", "labels", "error", "message"),
    [
        ([BOX], [0], ValueError, r"targets\[1\]\['labels'\]\[0\] must lie in 1..2, got 0"),
        ([BOX, BOX], [1, 3], ValueError, r"\['labels'\]\[1\] must lie in 1..2, got 3"),
        ([BOX], [-1], ValueError, "must lie in 1..2, got -1"),
        ([BOX], [1.0], TypeError, "labels'\\] must be int64, got torch.float32"),
        ([BOX], [1, 2], ValueError, "labels'\\] must be \\[1\\]"),
        ([[5.0, 5, float("nan"), 9]], [1], ValueError, "must be finite with positive width"),
        ([[5.0, 5, float("inf"), 9]], [1], ValueError, "must be finite with positive width"),
        ([[5.0, 5, 5, 9]], [1], ValueError, "must be finite with positive width"),
        ([[9.0, 5, 5, 9]], [1], ValueError, "must be finite with positive width"),
        ([BOX + [1.0]], [1], ValueError, "must be \\[G, 4\\], got \\(1, 5\\)"),
        ([[5, 5, 40, 50]], [1], TypeError, "boxes'\\] must be floating point, got torch.int64"),
    ],
)
def test_targets_are_checked_before_a_device_has_them(
    monkeypatch, tmp_path, objective, boxes, labels, error, message
):
    """On a GPU their values would not be read; here "meta" stands for one."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    sound = {"boxes": torch.tensor([BOX]), "labels": torch.tensor([1])}
    unsound = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    trainer = Trainer(
        TrainConfig(output=str(tmp_path), batch_size=1),
        FromTorchvision([(images[0], sound)], ["cat", "dog"]),
        objective=None if objective == "model" else RPNObjective,
        model=faster_rcnn("tiny", 3, min_size=64, max_size=64),
    )
    trainer.device = torch.device("meta")
    trainer.objective.to(trainer.device)
    with pytest.raises(error, match=message):
        trainer.update([(images, [sound, unsound])])
