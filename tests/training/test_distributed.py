"""Two processes do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from additive import gradient, make_config, make_trainer, note_images

from fastrpn.data import ProposalSet, generate_synthetic
from fastrpn.evaluation import evaluate
from fastrpn.inference.propose import propose_dataset
from fastrpn.models.checkpoint import load_checkpoint, load_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return generate_synthetic(root, 12, 5, seed=3, image_size=(64, 64), progress=False)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """The folder in which two processes have trained for four steps."""
    output = tmp_path_factory.mktemp("pair")
    script = Path(__file__).with_name("additive.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", str(script), str(data), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return output


def seen(pair):
    return [json.loads((pair / f"seen{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_equal_those_of_one_process(data, pair, tmp_path, accumulate):
    alone = gradient(make_trainer(make_config(data, tmp_path, batch_size=4 * accumulate)))
    for rank in range(2):
        shared = torch.load(pair / f"gradients{rank}.pt")[accumulate - 1]
        assert alone.norm() > 0.1
        assert (shared - alone).norm() < 1e-5 * alone.norm()


def test_each_image_is_evaluated_once(data, pair):
    model, _ = load_model(pair / "last.pt")
    dataset = make_trainer(make_config(data, pair / "unused")).validation
    alone = evaluate(model, dataset, batch_size=2, progress=False)
    for share in seen(pair):
        assert share["evaluated"] == [0, 1, 2, 3, 4]
        assert share["metrics"]["AP50"] == pytest.approx(alone["AP50"], abs=1e-6)
        assert share["metrics"]["num_images"] == 5


def test_one_process_goes_on_where_two_have_stopped(data, pair, tmp_path):
    whole = make_trainer(make_config(data, tmp_path / "whole", steps=8))
    images = note_images(whole)
    expected = whole.run().history
    shares = [share["steps"] for share in seen(pair)]
    together = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert together == [sorted(step) for step in images[:4]]

    resumed = make_trainer(make_config(data, pair, steps=8, resume=True, allow_changes=True))
    rest = note_images(resumed)
    history = resumed.run().history
    assert rest == images[4:]
    for entry, whole_entry in zip(history, expected, strict=True):
        assert entry == pytest.approx(whole_entry, rel=1e-3, abs=1e-5)


def test_two_processes_propose_what_one_does(data, pair):
    folder = pair / "alternating"
    assert "metrics" in load_checkpoint(folder / "last.pt") and not list(folder.glob(".*"))
    dataset = make_trainer(make_config(data, pair / "unused")).dataset
    for stage in ("1-rpn", "3-rpn"):
        model, _ = load_model(folder / stage / "last.pt")
        alone, _ = propose_dataset(dataset, "rpn", model, limit=40, progress=False)
        together = ProposalSet.load(folder / stage / "proposals.npz")
        assert list(together) == list(alone) and len(together) == 12
        for image_id in alone:
            for ours, theirs in zip(together[image_id], alone[image_id], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrpn.distributed.size", lambda: 3)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes"):
        make_trainer(make_config(data, tmp_path))
