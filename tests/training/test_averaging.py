"""The moving average of the weights: its rule, who uses it, and that runs resume with it."""

import dataclasses

import pytest
import torch
from additive import make_config, make_trainer

from fastrpn.data import generate_synthetic
from fastrpn.models import faster_rcnn, load_weights
from fastrpn.models.checkpoint import export_weights, load_checkpoint, load_model
from fastrpn.training import TrainConfig
from fastrpn.training.averaging import WeightAverage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 8, 2, seed=3, image_size=(64, 64), progress=False)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_rule():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1)).double()
    weight = model[0].weight
    torch.nn.init.constant_(weight, 5.0)
    average = WeightAverage(model, 0.5)
    expected = 5.0
    for step, value in enumerate([1.0, 2.0, 4.0, 8.0, 3.0, 1.0, 6.0, 2.0, 9.0], start=1):
        torch.nn.init.constant_(weight, value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(step)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.weights["0.weight"].item() == pytest.approx(expected)
    assert decay == 0.5  # reached
    assert 1 < average.weights["1.running_mean"] < 9
    assert average.weights["1.num_batches_tracked"] == 9
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), average.in_place(model):
        assert equal(dict(model.state_dict()), average.weights)
        raise KeyError
    assert equal(dict(model.state_dict()), before)


def test_evaluation_and_whoever_opens_a_checkpoint_use_the_average(data, tmp_path):
    config = make_config(data, tmp_path / "run", ema=0.9, eval_every=1)
    trainer = make_trainer(config)
    result = trainer.run()
    last, best = (load_checkpoint(tmp_path / "run" / name) for name in ("last.pt", "best.pt"))
    assert not equal(last["ema"], last["weights"])
    assert equal(dict(result.model.state_dict()), last["ema"])
    for name, content in (("last.pt", last), ("best.pt", best)):
        model, _ = load_model(tmp_path / "run" / name)
        assert equal(dict(model.state_dict()), content["ema"])
    metrics = trainer.metrics
    trainer.average = None  # the model has the average now
    assert trainer.score(trainer.validation)["AP50"] == metrics["AP50"]
    start = faster_rcnn("tiny", model.num_classes, **config.model_options)
    load_weights(start, tmp_path / "run" / "last.pt")
    assert equal(dict(start.state_dict()), last["ema"])
    exported = export_weights(tmp_path / "run" / "last.pt", tmp_path / "a.safetensors")
    assert equal(dict(load_model(exported)[0].state_dict()), last["ema"])


def test_the_average_changes_nothing_of_the_training(data, tmp_path):
    histories = []
    for ema in (None, 0.9):
        config = make_config(data, tmp_path / str(ema), ema=ema, eval_every=1, val_loss=True)
        histories.append(make_trainer(config).run().history)
    assert histories[0] == histories[1]
    plain, averaged = (load_checkpoint(tmp_path / str(ema) / "last.pt") for ema in (None, 0.9))
    assert equal(plain["weights"], averaged["weights"]) and "ema" not in plain


def test_runs_resume_bit_for_bit(data, tmp_path):
    whole = make_config(data, tmp_path / "whole", ema=0.9, eval_every=1)
    make_trainer(whole).run()
    config = make_config(data, tmp_path / "parts", ema=0.9, eval_every=1, checkpoint_every=1)
    broken = make_trainer(config)
    take = broken._take_step

    def stop_at_three(parts):
        if broken.step == 3:
            raise KeyboardInterrupt
        take(parts)

    broken._take_step = stop_at_three
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    make_trainer(dataclasses.replace(config, resume=True)).run()
    a, b = (load_checkpoint(tmp_path / part / "last.pt") for part in ("whole", "parts"))
    assert equal(a["ema"], b["ema"]) and equal(a["weights"], b["weights"])


def test_an_average_may_begin_later(data, tmp_path):
    config = make_config(data, tmp_path, steps=2)
    make_trainer(config).run()
    later = dataclasses.replace(config, steps=4, ema=0.9, resume=True)
    with pytest.raises(ValueError, match="ema None -> 0.9"):
        make_trainer(later)
    trainer = make_trainer(dataclasses.replace(later, allow_changes=True))
    assert equal(trainer.average.weights, load_checkpoint(tmp_path / "last.pt")["weights"])


@pytest.mark.parametrize("ema", [0, 1, -0.5, 2])
def test_decays_that_are_none(ema):
    with pytest.raises(ValueError, match="ema must be between 0 and 1"):
        TrainConfig(ema=ema)
