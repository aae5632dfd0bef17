"""The 4-step alternating training, and Fast R-CNN alone on proposals from a file."""

import dataclasses

import pytest
import torch

from fastrpn.data import ProposalSet, VOCDataset, generate_synthetic
from fastrpn.inference import Predictor
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import TrainConfig, Trainer, loop, objectives, schedules, train

STAGES = ("1-rpn", "2-fast-rcnn", "3-rpn", "4-fast-rcnn")
RPN_LOSSES = {"loss_objectness", "loss_rpn_box_reg"}
BOX_LOSSES = {"loss_classifier", "loss_box_reg"}
ALTERNATING = {"schedule": "alternating", "rpn_stage": {"steps": 2, "lr": 0.01}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 4, 2, seed=3, image_size=(64, 96), progress=False)


def make_config(data, output, **settings):
    config = TrainConfig(
        data=str(data),
        output=str(output),
        model_options={
            "min_size": 64,
            "max_size": 96,
            "rpn_post_nms_top_n_train": 30,
            "rpn_post_nms_top_n_test": 20,
            "box_batch_size": 16,
        },
        batch_size=2,
        steps=3,
        warmup_steps=0,
        log_every=1,
        checkpoint_every=1,
        val_set=None,
        pictures=0,
        rehearsal=False,
        progress=False,
    )
    return dataclasses.replace(config, **settings)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run: (its folder, its result)."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {**ALTERNATING, "val_set": "val", "eval_every": 1}  # also before the last step
    return folder, train(make_config(data, folder, **settings))


def weights(folder, stage, part):
    content = load_checkpoint(folder / stage / "last.pt")["weights"]
    return {name: value for name, value in content.items() if name.startswith(part + ".")}


def equal(a, b):
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[name], b[name]) for name in a)


def test_shared_layers_rest_bit_for_bit_in_steps_3_and_4(whole):
    folder, _ = whole
    shared = weights(folder, "2-fast-rcnn", "backbone")
    assert any("running_mean" in name for name in shared)  # statistics are compared, too
    assert equal(shared, weights(folder, "3-rpn", "backbone"))
    assert equal(shared, weights(folder, "4-fast-rcnn", "backbone"))
    assert not equal(shared, weights(folder, "1-rpn", "backbone"))


def test_each_step_trains_its_part_alone(whole):
    folder, _ = whole
    for stage, part in zip(STAGES[1:], ("roi_head", "rpn", "roi_head"), strict=True):
        before = STAGES[STAGES.index(stage) - 1]
        assert not equal(weights(folder, before, part), weights(folder, stage, part))
    for before, after, part in (
        ("2-fast-rcnn", "3-rpn", "roi_head"),
        ("3-rpn", "4-fast-rcnn", "rpn"),
    ):
        assert equal(weights(folder, before, part), weights(folder, after, part))


def test_step_2_is_fast_rcnn_from_the_initial_weights(whole, data, tmp_path):
    folder, _ = whole
    alone = train(make_config(data, tmp_path, proposals=str(folder / "1-rpn" / "proposals.npz")))
    ours = load_checkpoint(folder / "2-fast-rcnn" / "last.pt")["weights"]
    assert equal(load_checkpoint(alone.checkpoint)["weights"], ours)
    assert BOX_LOSSES <= set(alone.history[0]) and not RPN_LOSSES & set(alone.history[0])


def test_history_has_the_stages_with_their_settings(whole):
    _, result = whole
    for stage, losses in zip((1, 2, 3, 4), (RPN_LOSSES, BOX_LOSSES) * 2, strict=True):
        entries = [entry for entry in result.history if entry["stage"] == stage]
        assert [entry["step"] for entry in entries] == ([1, 2] if stage % 2 else [1, 2, 3])
        assert entries[0]["lr"] == (0.01 if stage % 2 else 0.02)
        assert {name for name in entries[0] if name.startswith("loss_")} == losses


def test_the_result_is_an_ordinary_checkpoint(whole, data):
    folder, result = whole
    assert result.checkpoint == folder / "last.pt" and (folder / "best.pt").exists()
    assert "AP50" in result.metrics
    image, _ = VOCDataset(data, "val")[0]
    loaded, trained = (Predictor(source)(image) for source in (result.checkpoint, result.model))
    assert len(trained["boxes"]) > 0 and equal(loaded, trained)
    last_step = load_checkpoint(folder / "4-fast-rcnn" / "last.pt")["weights"]
    assert equal(load_checkpoint(result.checkpoint)["weights"], last_step)


def test_proposals_are_of_the_training_set_and_reused(whole, data, monkeypatch):
    folder, result = whole
    for stage in ("1-rpn", "3-rpn"):
        proposals = ProposalSet.load(folder / stage / "proposals.npz")
        assert len(proposals) == 4 and all(0 < len(boxes) <= 30 for boxes, _ in proposals.values())

    def refuse(*args):
        raise AssertionError("a finished step runs again")

    monkeypatch.setattr(schedules, "propose_dataset", refuse)
    monkeypatch.setattr(Trainer, "_take_step", refuse)
    again = train(make_config(data, folder, **ALTERNATING, resume=True))
    assert again.history == result.history


@pytest.mark.parametrize(("stage", "step"), [("1-rpn", 1), ("4-fast-rcnn", 2)])
def test_an_interrupted_run_continues(whole, data, tmp_path, monkeypatch, stage, step):
    folder, result = whole
    take_step = Trainer._take_step

    def stop(self, parts):
        if self.output.name == stage and self.step == step:
            raise KeyboardInterrupt
        take_step(self, parts)

    config = make_config(data, tmp_path, **ALTERNATING)
    monkeypatch.setattr(Trainer, "_take_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    resumed = train(dataclasses.replace(config, resume=True))
    assert equal(load_checkpoint(resumed.checkpoint)["weights"], result.model.state_dict())


def test_proposals_of_a_former_run_are_not_used(data, tmp_path, monkeypatch):
    """The second run is killed when its first RPN is ready and has not proposed yet."""
    config = make_config(data, tmp_path, **ALTERNATING)
    train(config)
    path = tmp_path / "1-rpn" / "proposals.npz"
    former = path.read_bytes()

    def stop(*_, **__):
        raise KeyboardInterrupt

    changed = dataclasses.replace(config, seed=1, overwrite=True)
    monkeypatch.setattr(schedules, "propose_dataset", stop)
    with pytest.raises(KeyboardInterrupt):
        train(changed)
    assert load_checkpoint(tmp_path / "1-rpn" / "last.pt")["step"] == 2 and not path.exists()
    monkeypatch.undo()
    resumed = train(dataclasses.replace(changed, resume=True))
    assert path.read_bytes() != former
    undisturbed = train(dataclasses.replace(changed, output=str(tmp_path / "again")))
    assert equal(resumed.model.state_dict(), undisturbed.model.state_dict())


def test_the_rehearsal_goes_through_all_steps_first(whole, data, tmp_path, monkeypatch):
    folder, result = whole
    settings = {**ALTERNATING, "box_error_by_class": True, "val_set": "val", "rehearsal": True}
    first = train(make_config(data, tmp_path / "a", **ALTERNATING, rehearsal=True))
    assert equal(first.model.state_dict(), result.model.state_dict())  # it changes nothing
    assert not list((tmp_path / "a").glob(".*"))

    def broken(*_, **__):
        raise OSError("broken")

    steps, take_step = [], Trainer._take_step

    def noting(self, parts):
        steps.append(self.output.parent.name)
        take_step(self, parts)

    monkeypatch.setattr(Trainer, "_take_step", noting)
    for module, stage in (
        (schedules, "propose_dataset"),
        (objectives, "box_target_std"),
        (loop, "evaluate"),
    ):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="broken"):
            patch.setattr(module, stage, broken)
            train(make_config(data, tmp_path / "b", **settings))
    assert set(steps) == {".fastrpn-unfinished-rehearsal"}
    assert not [path for path in (tmp_path / "b").rglob("*")]


def test_bad_settings_are_named(data, tmp_path):
    with pytest.raises(ValueError, match="rpn_stage must be settings .* got {'epoch': 3}"):
        make_config(data, tmp_path, rpn_stage={"epoch": 3})
    with pytest.raises(ValueError, match="schedule must be 'joint' where proposals are given"):
        make_config(data, tmp_path, schedule="alternating", proposals="rpn.npz")
