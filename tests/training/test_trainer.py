"""Training: it repeats, resumes, learns, and refuses what it cannot continue."""

import dataclasses
import json
import re
import warnings

import pytest
import torch

from fastrpn.data import FromTorchvision, generate_synthetic
from fastrpn.evaluation.report import BELOW_THE_TABLE, COLUMNS
from fastrpn.images import image_to_tensor, read_image
from fastrpn.inference import Predictor
from fastrpn.models import BoxHead, FasterRCNN, ModelConfig, load_weights
from fastrpn.models.checkpoint import (
    load_checkpoint,
    load_model,
    require_same_model,
    save_checkpoint,
)
from fastrpn.training import NonFiniteLossError, TrainConfig, Trainer, train
from fastrpn.training.config import lr_factor
from fastrpn.training.setup import training_loader

OPTIONS = {
    "min_size": 64,
    "max_size": 96,
    "rpn_post_nms_top_n_train": 50,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size": 16,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 8, 2, seed=3, image_size=(64, 96), progress=False)


@pytest.fixture
def config(data, tmp_path):
    return TrainConfig(
        data=str(data),
        output=str(tmp_path / "run"),
        model_options=OPTIONS,
        batch_size=2,
        steps=6,
        warmup_steps=2,
        log_every=1,
        val_set=None,
        progress=False,
    )


def losses(history):
    names = [name for name in history[0] if name.startswith("loss_")]
    assert len(names) == 4
    return [tuple(entry[name] for name in names) for entry in history]


def same_weights(a, b):
    a, b = load_checkpoint(a)["weights"], load_checkpoint(b)["weights"]
    return all(torch.equal(a[name], b[name]) for name in a)


def test_equal_runs_are_equal_bit_for_bit(config, tmp_path):
    first = train(config)
    second = train(dataclasses.replace(config, output=str(tmp_path / "again")))
    assert losses(first.history) == losses(second.history)
    assert same_weights(first.checkpoint, second.checkpoint)
    other = train(dataclasses.replace(config, output=str(tmp_path / "other"), seed=1))
    assert losses(first.history) != losses(other.history)


def test_an_interrupted_run_continues_with_the_same_losses(config, tmp_path, monkeypatch):
    whole = train(config)
    broken = dataclasses.replace(config, output=str(tmp_path / "broken"), checkpoint_every=3)
    take_step = Trainer._take_step

    def stop_at_step_five(self, parts):
        if self.step == 5:
            raise KeyboardInterrupt
        take_step(self, parts)

    monkeypatch.setattr(Trainer, "_take_step", stop_at_step_five)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "broken" / "last.pt")["step"] == 3
    resumed = train(dataclasses.replace(broken, resume=True))
    assert [entry["step"] for entry in resumed.history] == [1, 2, 3, 4, 5, 6]
    assert losses(resumed.history) == losses(whole.history)
    assert same_weights(resumed.checkpoint, whole.checkpoint)
    lines = (tmp_path / "broken" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_loss_falls_when_one_batch_is_learnt_by_heart(config):
    config = dataclasses.replace(config, steps=40, batch_size=8, flip=0.0, lr=0.05)
    sums = [sum(step) for step in losses(train(config).history)]
    assert sum(sums[-5:]) < 0.6 * sum(sums[1:6])


def test_scales_and_colours_change_training_and_repeat(config, tmp_path):
    changed = dataclasses.replace(
        config, steps=3, short_sides=(48, 64), color_jitter=(0.4, 0.4, 0.4, 0.1)
    )
    first = train(changed)
    again = train(dataclasses.replace(changed, output=str(tmp_path / "again")))
    assert losses(first.history) == losses(again.history)
    plain = train(dataclasses.replace(config, steps=3, output=str(tmp_path / "plain")))
    assert losses(first.history) != losses(plain.history)
    assert not first.model.transform.resizes_training_images
    options = {**OPTIONS, "rpn_min_size_original": True}  # pixels that only the loader sees
    with pytest.raises(ValueError, match="short_sides: .* rpn_min_size_original"):
        train(dataclasses.replace(changed, model_options=options, overwrite=True))


def test_training_starts_from_the_weights_of_a_file(config, tmp_path):
    first = train(dataclasses.replace(config, steps=1))
    fresh = dataclasses.replace(config, output=str(tmp_path / "second"), lr=1e-9, steps=1)
    second = train(dataclasses.replace(fresh, weights=str(first.checkpoint)))
    a, b = (load_checkpoint(result.checkpoint)["weights"] for result in (first, second))
    torch.testing.assert_close(a["rpn.head.conv.weight"], b["rpn.head.conv.weight"])


def test_evaluation_keeps_the_best_and_reports_metrics(config):
    result = train(dataclasses.replace(config, steps=4, val_set="val", eval_every=1))
    assert {"AP", "AP50", "per_class"} <= set(result.metrics)
    assert (result.checkpoint.parent / "best.pt").exists()


def test_the_best_checkpoint_stays_when_ap_falls(config, monkeypatch):
    scores = iter([0.2, 0.5, 0.3, 0.4])  # an epoch has four steps, and is evaluated at its end

    def scored(self, dataset):
        return dict.fromkeys((*COLUMNS, *BELOW_THE_TABLE), next(scores))

    monkeypatch.setattr(Trainer, "score", scored)
    settings = {"steps": 12, "val_set": "val", "eval_every": 1, "pictures": 0, "rehearsal": False}
    config = dataclasses.replace(config, **settings)
    path = train(config).checkpoint.with_name("best.pt")
    assert (load_checkpoint(path)["step"], load_checkpoint(path)["best"]) == (8, 0.5)
    train(
        dataclasses.replace(config, steps=16, resume=True, allow_changes=True)
    )  # the resumed run knows the best
    assert load_checkpoint(path)["step"] == 8
    assert load_checkpoint(path.with_name("last.pt"))["step"] == 16


def test_resume_refuses_another_model(config):
    path = train(dataclasses.replace(config, steps=1)).checkpoint
    other_rules = {**OPTIONS, "box_batch_size": 8}
    with pytest.raises(ValueError, match="box_batch_size=16, not 8"):
        train(dataclasses.replace(config, resume=True, model_options=other_rules))
    saved = load_checkpoint(path)["model"]
    for change, message in (
        ({"name": "vgg16"}, "holds a 'tiny' model, not 'vgg16'"),
        ({"classes": saved["classes"][:3]}, "7 classes with the background, not 3"),
        ({"classes": [*saved["classes"][:-1], "cat"]}, "has the classes .* not .*cat"),
    ):
        with pytest.raises(ValueError, match=message):
            require_same_model(path, saved, {**saved, **change})


def test_load_model_names_what_is_wrong(config, tmp_path):
    path = train(dataclasses.replace(config, steps=1)).checkpoint
    with pytest.raises(ValueError, match="7 classes with the background, not 21"):
        load_model(path, num_classes=21)
    with pytest.raises(ValueError, match=r"nothing\.pt: no such file"):
        load_model(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pt: cannot be read"):
        load_model(tmp_path / "text.pt")
    torch.save({"weights": {}}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"foreign\.pt: not a checkpoint of fastrpn"):
        load_model(tmp_path / "foreign.pt")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = save_checkpoint(tmp_path / "last.pt", {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": lambda: 2})
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


class Things(torch.utils.data.Dataset):
    """Images and targets as torchvision's detection models take them."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        boxes = torch.tensor([[5.0, 5, 40, 50 + index]])
        return torch.rand(3, 64, 80), {"boxes": boxes, "labels": torch.tensor([1])}


def own_model(num_classes=2):
    network = torch.nn.Conv2d(3, 8, 16, stride=16)
    network.strides, network.out_channels = (16,), 8
    rules = ModelConfig(min_size=64, anchor_sizes=((16.0, 32.0),), box_batch_size=8)
    return FasterRCNN(network, BoxHead(8 * 49, 16), num_classes, rules)


def test_a_data_set_and_a_model_of_ones_own(config):
    data = FromTorchvision(Things(), ["thing"])
    config = dataclasses.replace(config, steps=2, pictures=1)
    result = Trainer(config, data, data, model=own_model()).run()
    assert result.metrics["num_images"] == 4 and result.history[-1]["step"] == 2
    again = own_model()
    load_weights(again, result.checkpoint)
    pairs = zip(again.parameters(), result.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    longer = dataclasses.replace(config, steps=3, resume=True, allow_changes=True)
    resumed = Trainer(longer, data, model=own_model())
    assert len(resumed.run().history) == 3
    with pytest.raises(ValueError, match=r"last\.pt holds a network of your own"):
        load_model(result.checkpoint)
    with pytest.raises(ValueError, match="model has 5 classes with the background, the data set 2"):
        Trainer(longer, data, model=own_model(5))


def test_frozen_random_layers_are_warned_of(config, tmp_path):
    config = dataclasses.replace(config, steps=1, model="resnet18_fpn", model_options={})
    data = FromTorchvision(Things(), ["thing"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Trainer(config, data).model
    config.model_options = {"freeze_below": 3}
    with pytest.warns(UserWarning, match="freeze_below=3: the first layers of resnet18_fpn will"):
        Trainer(config, data)
    torch.save({"format": "", "weights": model.state_dict()}, tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(dataclasses.replace(config, weights=str(tmp_path / "weights.pt")), data)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_come_in_pinned_memory(config, device):
    trainer = Trainer(config, FromTorchvision(Things(), ["thing"]))
    loader = training_loader(config, trainer.dataset, trainer.model, torch.device(device))
    assert loader._loader.pin_memory == (device == "cuda")


def test_a_device_that_cannot_be_used_is_named(config):
    with pytest.raises(ValueError, match="device 'abacus' cannot be used"):
        train(dataclasses.replace(config, device="abacus"))
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used"):
        train(dataclasses.replace(config, device="cuda:99"))


def test_non_finite_loss_names_step_and_images(config):
    config = dataclasses.replace(config, lr=1e30, warmup_steps=0, clip_grad_norm=None)
    with pytest.raises(NonFiniteLossError, match=r"at step \d, image_id \[\d, \d\]"):
        train(config)


def test_learning_rate():
    config = TrainConfig(data="", output="", warmup_steps=10, lr_steps=(0.5, 0.75))
    assert lr_factor(config, 0, 100) == pytest.approx(0.1)
    assert lr_factor(config, 9, 100) == lr_factor(config, 49, 100) == 1.0
    assert lr_factor(config, 50, 100) == pytest.approx(0.1)
    assert lr_factor(config, 75, 100) == pytest.approx(0.01)
    config.lr_schedule = "cosine"
    assert lr_factor(config, 55, 100) == pytest.approx(0.5)
    assert lr_factor(config, 99, 100) < 0.001


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0},
        {"batch_size": 0},
        {"steps": 0},
        {"schedule": "never"},
        {"lr_schedule": "linear"},
        {"flip": 2.0},
        {"clip_grad_norm": -1.0},
        {"lr_steps": (0.5, 30000.0)},
        {"lr_steps": (-0.1,)},
    ],
)
def test_config_names_the_bad_value(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .* got {re.escape(repr(value))}"):
        TrainConfig(data="", output="", **options)


def test_predictor_takes_paths_arrays_and_tensors(config, data):
    path = train(dataclasses.replace(config, steps=1)).checkpoint
    detect = Predictor(path, batch_size=2)
    files = sorted((data / "JPEGImages").iterdir())[:3]
    results = detect(files)
    assert len(results) == 3 and set(results[0]) == {"boxes", "labels", "scores"}
    array = read_image(files[0])
    expected = detect(image_to_tensor(array))
    assert len(expected["boxes"]) > 0
    for image in (files[0], str(files[0]), array):
        assert all(torch.equal(detect(image)[name], expected[name]) for name in expected)
    detect.score_threshold = 0.99
    assert len(detect(files[0])["scores"]) == 0
    with pytest.raises(ValueError, match="uint8"):
        detect(torch.zeros(4, 4, 3).numpy())
