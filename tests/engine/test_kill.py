"""A run that is killed with SIGKILL, again and again, ends as if nothing had happened."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import torch

from fastrpn.data import generate_synthetic
from fastrpn.engine import TrainConfig, load_checkpoint, train
from fastrpn.engine.config_file import write_config_file
from fastrpn.engine.history import RunLog

# Runs `fastrpn train` and dies in the middle of something, so that nothing can clean up.
VICTIM = """
import os, signal, sys, torch
from fastrpn.cli import main
from fastrpn.engine import trainer

def die(*_):
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
    drawn, draw = [], trainer.draw_evaluation
    def picture(*arguments):
        drawn.append(1)
        if len(drawn) == 1 + 1:
            die()
        return draw(*arguments)
    trainer.draw_evaluation = picture

locals()[sys.argv[1]]()
main(sys.argv[2:])
"""


def test_a_killed_run_repeats_bit_for_bit(tmp_path):
    data = generate_synthetic(tmp_path / "data", 8, 3, 3, image_size=(64, 64), progress=False)
    config = TrainConfig(
        data=str(data),
        output=str(tmp_path / "whole"),
        model_options={"min_size": 64, "max_size": 64, "box_batch_size": 16},
        batch_size=2,
        steps=8,
        warmup_steps=2,
        log_every=2,
        checkpoint_every=2,
        eval_every=1,
        pictures=1,
        progress=False,
    )
    whole = train(config)
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"), resume=True)
    file = write_config_file(tmp_path / "run.yaml", killed)

    def start(*program):
        command = [sys.executable, *program, "train", "--config", str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.run(command, env=environment).returncode

    last = tmp_path / "killed" / "last.pt"
    for moment, step in (("in_a_step", 2), ("while_writing", 4), ("between", 6)):
        assert start("-c", VICTIM, moment) == -signal.SIGKILL
        assert load_checkpoint(last)["step"] == step
    assert start("-m", "fastrpn") == 0

    for name in ("history.jsonl", "evaluations.jsonl"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected
        assert json.loads(expected.splitlines()[-1])["step"] == 8
    weights = load_checkpoint(last)["weights"]
    expected = load_checkpoint(whole.checkpoint)["weights"]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not [path.name for path in last.parent.iterdir() if path.name.startswith(".")]

    finished = train(killed)
    assert finished.metrics == whole.metrics and finished.history == whole.history


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
