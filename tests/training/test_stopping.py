"""A run that is told to stop leaves a checkpoint, and goes on as if nothing had happened."""

import os
import signal
import subprocess
import threading
import time

import pytest
from kills import TWO_PROCESSES, equal_runs, make_config, start

from fastrpn.data import generate_synthetic
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import Trainer, train
from fastrpn.training.stopping import Interrupted, StopSignals


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return generate_synthetic(root, 8, 3, 3, image_size=(64, 64), progress=False)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    config = make_config(data, tmp_path_factory.mktemp("whole"), steps=6, eval_every=1)
    train(config)
    return config.output


def at_step(monkeypatch, number, action):
    """Does something in the middle of a step, the weights having moved."""
    update = Trainer.update

    def updating(self, parts):
        found = update(self, parts)
        if self.step == number and self.losses.log.entries is not None:
            action()
        return found

    monkeypatch.setattr(Trainer, "update", updating)


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_in_a_step_ends_after_it(data, whole, tmp_path, monkeypatch, number, error):
    config = make_config(data, tmp_path, steps=6, eval_every=1, rehearsal=False, workers=1)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 2, send(number))
        with pytest.raises(error) as raised:
            train(config)
    assert raised.type is KeyboardInterrupt or raised.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 3
    config.resume = True
    train(config)
    assert equal_runs(tmp_path, whole)


def test_a_signal_while_it_evaluates_ends_at_once_and_the_evaluation_comes_later(
    data, whole, tmp_path, monkeypatch
):
    config = make_config(data, tmp_path, steps=6, eval_every=1, rehearsal=False)
    with monkeypatch.context() as patch:

        def evaluating(*_, **__):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

        patch.setattr("fastrpn.training.loop.evaluate", evaluating)
        started = time.monotonic()
        with pytest.raises(SystemExit):
            train(config)
        assert time.monotonic() - started < 30
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 4
    assert (tmp_path / "evaluations.jsonl").read_text() == ""
    config.resume = True
    train(config)
    assert equal_runs(tmp_path, whole)


def test_a_second_signal_ends_in_the_middle(data, tmp_path, monkeypatch):
    config = make_config(data, tmp_path, steps=6, rehearsal=False)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2  # the one of before


def test_signals_are_noted_where_something_is_half_done():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("it goes on")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(StopSignals().__enter__().check()))
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on(data, tmp_path, number, status):
    config = make_config(data, tmp_path / "run", steps=100_000)
    config.progress = True
    process = start(config, wait=False, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "last.pt; --resume goes on" in printed.replace("\n", "")
    step = load_checkpoint(tmp_path / "run" / "last.pt")["step"]
    assert f"after step {step} of 100000" in printed


def test_two_processes_stop_after_the_same_step(data, tmp_path):
    config = make_config(data, tmp_path / "run", steps=100_000)
    process = start(config, TWO_PROCESSES, wait=False)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    steps = load_checkpoint(tmp_path / "run" / "last.pt")["step"]
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(lines) == steps > 0
