"""The rehearsal finds what is broken before the first step, and leaves no trace."""

import dataclasses

import pytest
import torch
from additive import make_config, make_trainer

from fastrpn import distributed
from fastrpn.data import generate_synthetic
from fastrpn.files import UNFINISHED
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import Trainer, loop, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 6, 2, seed=3, image_size=(64, 64), progress=False)


def broken(*_, **__):
    raise OSError("broken")


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        (loop, "evaluate"),
        (loop, "draw_evaluation"),
        (loop, "save_checkpoint"),
        (loop, "load_checkpoint"),
        (torch.optim.SGD, "step"),
    ],
)
def test_a_broken_stage_stops_the_run_before_its_first_step(
    data, tmp_path, monkeypatch, module, stage
):
    monkeypatch.setattr(Trainer, "_take_step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr(module, stage, broken)
    run = make_trainer(make_config(data, tmp_path, pictures=1))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.raises(OSError, match="broken"):
        run.run()
    after = run.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*"))


def test_a_former_run_survives_a_failed_rehearsal_and_nothing_else(data, tmp_path, monkeypatch):
    config = make_config(data, tmp_path, steps=2, eval_every=1)
    train(config)
    names = ("last.pt", "best.pt", "history.jsonl", "evaluations.jsonl", "config.yaml")
    again = dataclasses.replace(config, overwrite=True)
    former = {name: (tmp_path / name).read_bytes() for name in names}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", broken)
        with pytest.raises(OSError, match="broken"):
            train(again)
    assert all((tmp_path / name).read_bytes() == content for name, content in former.items())
    monkeypatch.setattr(Trainer, "_take_step", broken)
    (tmp_path / f"{UNFINISHED}last-leftover.pt").touch()
    (tmp_path / ".somebody-elses.yaml").touch()
    with pytest.raises(OSError, match="broken"):
        train(again)
    assert not list(tmp_path.glob("*.pt"))
    assert [path.name for path in tmp_path.glob(".*")] == [".somebody-elses.yaml"]
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_it_changes_nothing(data, tmp_path):
    settings = {"steps": 3, "val_set": None, "workers": 1}
    runs = [
        train(make_config(data, tmp_path / str(rehearsal), rehearsal=rehearsal, **settings))
        for rehearsal in (True, False)
    ]
    assert runs[0].history == runs[1].history
    weights = [load_checkpoint(run.checkpoint)["weights"] for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_optimizer_of_a_resumed_run_is_restored(data, tmp_path):
    train(make_config(data, tmp_path, steps=2, val_set=None))
    run = make_trainer(make_config(data, tmp_path, steps=3, resume=True, allow_changes=True))
    run.objective.train()
    before = [state["momentum_buffer"].clone() for state in run.optimizer.state.values()]
    run.rehearse()
    after = [state["momentum_buffer"] for state in run.optimizer.state.values()]
    assert before and all(map(torch.equal, before, after))
    assert all(p.grad is None for p in run.model.parameters())
    assert distributed.size() == 1 and run.step == 2
