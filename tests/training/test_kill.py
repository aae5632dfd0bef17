"""A run that is killed with SIGKILL, again and again, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from fastrpn.data import generate_synthetic
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import TrainConfig, train
from fastrpn.training.log import RunLog, write_config_file

# Runs `fastrpn train` and dies in the middle of something, so that nothing can clean up.
VICTIM = """
import os, signal, sys, torch
from fastrpn.cli import main
from fastrpn.training import loop, schedules

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def in_a_step():  # the weights have moved, the step is not counted yet
    updates, update = [], torch.optim.SGD.step
    def step(self):
        update(self)
        updates.append(1)
        if len(updates) == 1 + 3:  # the rehearsal's, then three
            die()
    torch.optim.SGD.step = step

def while_writing():  # half of a checkpoint is there
    files, save = [], torch.save
    def half(content, file):
        save(content, file)
        files.append(file)
        if len(files) == 1 + 3:  # the rehearsal's, best.pt and last.pt at step 4
            file.truncate(file.tell() // 2)
            die()
    torch.save = half

def between():  # evaluated, but neither drawn nor saved
    drawn, draw = [], loop.draw_evaluation
    def picture(*arguments):
        drawn.append(1)
        if len(drawn) == 1 + 1:
            die()
        return draw(*arguments)
    loop.draw_evaluation = picture

def before_proposing():  # the first RPN is ready
    schedules.propose_dataset = die

def while_writing_proposals():  # the file is there, under its temporary name
    rename = os.replace
    os.replace = lambda old, new: die() if old.endswith(".npz") else rename(old, new)

def in_the_last_stage():
    take_step = loop.Trainer._take_step
    def step(self, parts):
        if self.output.name == "4-fast-rcnn" and self.step == 2:
            die()
        take_step(self, parts)
    loop.Trainer._take_step = step

def while_writing_the_detector():  # all steps are done
    save = schedules.save_checkpoint
    def half(path, content):
        os.replace = die
        save(path, content)
    schedules.save_checkpoint = half

locals()[sys.argv[1]]()
main(sys.argv[2:])
"""


@pytest.fixture
def data(tmp_path):
    return generate_synthetic(tmp_path / "data", 8, 3, 3, image_size=(64, 64), progress=False)


def make_config(data, output, **settings):
    return TrainConfig(
        data=str(data),
        output=str(output),
        model_options={"min_size": 64, "max_size": 64, "box_batch_size": 16},
        batch_size=2,
        warmup_steps=2,
        log_every=2,
        checkpoint_every=2,
        progress=False,
        **settings,
    )


def start(config, moment=None):
    """Runs `fastrpn train`, to its end or until it kills itself; the exit status."""
    file = write_config_file(f"{config.output}.yaml", config)
    program = ["-m", "fastrpn"] if moment is None else ["-c", VICTIM, moment]
    command = [sys.executable, *program, "train", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, env=environment).returncode


def same_weights(a, b):
    a, b = load_checkpoint(a)["weights"], load_checkpoint(b)["weights"]
    return all(torch.equal(a[name], b[name]) for name in a)


def no_leftovers(folder):
    return not [path.name for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_killed_run_repeats_bit_for_bit(data, tmp_path):
    whole = train(make_config(data, tmp_path / "whole", steps=8, eval_every=1, pictures=1))
    killed = tmp_path / "killed"
    config = make_config(data, killed, steps=8, eval_every=1, pictures=1, resume=True)
    for moment, step in (("in_a_step", 2), ("while_writing", 4), ("between", 6)):
        assert start(config, moment) == -signal.SIGKILL
        assert load_checkpoint(killed / "last.pt")["step"] == step
    assert start(config) == 0

    for name in ("history.jsonl", "evaluations.jsonl"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (killed / name).read_bytes() == expected
        assert json.loads(expected.splitlines()[-1])["step"] == 8
    assert same_weights(killed / "last.pt", whole.checkpoint) and no_leftovers(killed)
    finished = train(config)
    assert finished.metrics == whole.metrics and finished.history == whole.history


@pytest.mark.slow
def test_a_killed_alternating_training_repeats_bit_for_bit(data, tmp_path):
    settings = {"schedule": "alternating", "steps": 4, "val_set": None, "rehearsal": False}
    whole = train(make_config(data, tmp_path / "whole", **settings))
    killed = tmp_path / "killed"
    config = make_config(data, killed, **settings, resume=True)
    proposals = killed / "1-rpn" / "proposals.npz"
    for moment in ("before_proposing", "while_writing_proposals"):
        assert start(config, moment) == -signal.SIGKILL
        assert load_checkpoint(killed / "1-rpn" / "last.pt")["step"] == 4 and not proposals.exists()
    assert start(config, "in_the_last_stage") == -signal.SIGKILL
    assert load_checkpoint(killed / "4-fast-rcnn" / "last.pt")["step"] == 2
    assert not (killed / "last.pt").exists()
    assert start(config, "while_writing_the_detector") == -signal.SIGKILL
    assert not (killed / "last.pt").exists() and not no_leftovers(killed)
    assert start(config) == 0
    assert same_weights(killed / "last.pt", whole.checkpoint) and no_leftovers(killed)
    assert proposals.read_bytes() == (tmp_path / "whole" / "1-rpn" / "proposals.npz").read_bytes()
    assert train(config).history == whole.history


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    log = RunLog(path)
    log.begin()
    log.append([{"step": 1}, {"step": 2}, {"step": 3}])
    path.write_bytes(path.read_bytes()[:-5])
    assert RunLog(path, last_step=3).entries == [{"step": 1}, {"step": 2}]
    log = RunLog(path, last_step=1)
    assert log.entries == [{"step": 1}]
    log.begin()
    assert path.read_text() == '{"step": 1}\n'
    RunLog(path).begin()
    assert path.read_text() == ""
