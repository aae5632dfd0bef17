"""What goes wrong in a training: damaged files, full disks, dead processes, losses that are NaN."""

import dataclasses
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from kills import SCHEDULES, TWO_PROCESSES, equal_runs, kill_at, make_config, start
from kills import __file__ as KILLS

from fastrpn.cli import main
from fastrpn.data import BadDataError, FromTorchvision, generate_synthetic, open_dataset
from fastrpn.data import loader as loading
from fastrpn.data.loader import WorkerKilledError, build_loader
from fastrpn.files import UNFINISHED
from fastrpn.models import faster_rcnn, load_weights
from fastrpn.models.checkpoint import (
    DamagedCheckpointError,
    clear_folder,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from fastrpn.training import NonFiniteLossError, Trainer, replay, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return generate_synthetic(root, 8, 3, 3, image_size=(64, 64), progress=False)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    config = make_config(data, tmp_path_factory.mktemp("whole"), steps=6, eval_every=1)
    train(config)
    return config.output


# Checkpoints


def flipped(content, rng):
    position = rng.randrange(len(content))
    changed = bytearray(content)
    changed[position] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_no_damaged_checkpoint_is_taken_for_a_whole_one(tmp_path):
    content = {"weights": {"a": torch.randn(70, 70), "b": torch.arange(9)}, "step": 3}
    path = save_checkpoint(tmp_path / "last.pt", content)
    written, rng, refused = path.read_bytes(), random.Random(0), 0
    cut = [written[: rng.randrange(len(written))] for _ in range(50)]
    for damaged in [flipped(written, rng) for _ in range(300)] + cut:
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except DamagedCheckpointError as error:
            assert str(path) in str(error) and "cannot be read" in str(error)
            refused += 1
        else:  # a bit that nobody reads, such as padding
            assert found["step"] == 3 and found["weights"].keys() == content["weights"].keys()
            for name, value in content["weights"].items():
                assert torch.equal(found["weights"][name], value)
    assert refused > 250


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_resume_goes_back_to_the_checkpoint_before(data, whole, tmp_path, damage, capsys):
    config = make_config(data, tmp_path, steps=6, eval_every=1)
    train(dataclasses.replace(config, steps=4))
    config = dataclasses.replace(config, resume=True, allow_changes=True)
    last = tmp_path / "last.pt"
    content = last.read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
    }
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(damaged[damage])
        for read in (load_checkpoint, load_model):
            with pytest.raises(ValueError, match=r"last\.pt: cannot be read"):
                read(last)
        with pytest.raises(ValueError, match=r"last\.pt"):
            load_weights(faster_rcnn("tiny", 7), last)
    assert load_checkpoint(tmp_path / "previous.pt")["step"] == 2
    capsys.readouterr()
    result = train(config)
    said = capsys.readouterr().err
    assert damage == "gone" or ("going on from previous.pt" in said and said.count("\n") == 1)
    assert [entry["step"] for entry in result.history] == [1, 2, 3, 4, 5, 6]
    if damage != "gone":
        (tmp_path / "previous.pt").write_bytes(b"")
        last.write_bytes(b"")
        with pytest.raises(DamagedCheckpointError, match=r"previous\.pt: cannot be read"):
            train(config)


@pytest.mark.slow
def test_a_run_killed_before_one_of_its_changes_to_the_folder():
    """Any of them; `kills.py --changes 1000` takes all, in five minutes."""
    seed = str(random.Random().randrange(10**6))
    command = [sys.executable, KILLS, "--changes", "8", "--seed", seed]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, f"--seed {seed}: {found.stdout}{found.stderr}"
    assert found.stdout.splitlines()[-1] == "16 of 16 runs equal"


def test_what_was_killed_while_it_wrote_leaves_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "pictures"):
        folder.mkdir(exist_ok=True)
        (folder / f"{UNFINISHED}a.jpg").write_bytes(b"half")
    kept = tmp_path / "another-run" / f"{UNFINISHED}b.pt"  # perhaps being written
    kept.parent.mkdir()
    kept.write_bytes(b"half")
    clear_folder(tmp_path, is_new_run=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_killed_between_the_renames_of_a_checkpoint(tmp_path):
    """Both names are then one file's, and a rename between such names does nothing."""
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(last, {"step": 1}, previous)
    os.link(last, previous)
    save_checkpoint(last, {"step": 2}, previous)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert [load_checkpoint(path)["step"] for path in (previous, last)] == [1, 2]


FULL_DISK = """
import resource, sys
from fastrpn import models
from fastrpn.cli import main
from fastrpn.training import loop

save = loop.Trainer._save
def on_a_full_disk(self):
    if self.step == 4:  # no file may grow beyond this
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    save(self)
loop.Trainer._save = on_a_full_disk
main(sys.argv[1:])
"""


def test_a_full_disk_leaves_the_checkpoint_of_before(data, whole, tmp_path):
    config = make_config(data, tmp_path / "run", steps=6, eval_every=1, rehearsal=False)
    process = start(config, ("-c", FULL_DISK), wait=False, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    line = said.strip().splitlines()[-1]
    assert (
        line.startswith("fastrpn: error:")
        and "checkpoint cannot be written: File too large" in line
    )
    assert line.endswith("last.pt'") or line.endswith("best.pt'")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2
    assert not list((tmp_path / "run").glob(".*"))
    config.resume = True
    assert start(config) == 0
    assert equal_runs(tmp_path / "run", whole)


# Processes


def kill_a_worker():
    multiprocessing.active_children()[0].kill()


@pytest.mark.parametrize("moment", ["in_a_step", "between_steps"])
def test_a_killed_worker_is_replaced_and_changes_nothing(
    data, whole, tmp_path, monkeypatch, moment
):
    config = make_config(data, tmp_path, steps=6, eval_every=1, workers=2, rehearsal=False)
    gradients, take_step = Trainer.gradients, Trainer._take_step
    killed = []

    def in_a_step(self, parts):
        if moment == "in_a_step" and self.step in (1, 4):
            killed.append(kill_a_worker())
            time.sleep(0.2)
        return gradients(self, parts)

    def between_steps(self, parts):
        take_step(self, parts)
        if moment == "between_steps" and self.step in (2, 5):
            killed.append(kill_a_worker())

    monkeypatch.setattr(Trainer, "gradients", in_a_step)
    monkeypatch.setattr(Trainer, "_take_step", between_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(config)
    assert len(killed) == 2
    assert equal_runs(tmp_path, whole)


class Deadly(torch.utils.data.Dataset):
    """Kills whatever process reads its third image."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 8, 8), {"image_id": index}


@pytest.mark.filterwarnings("ignore:a process that reads images")
def test_workers_that_are_killed_again_and_again_end_the_run(monkeypatch):
    monkeypatch.setattr(loading, "MOST_DEATHS", 1)
    loader = build_loader(Deadly(), 1, shuffle=False, seed=0, workers=1)
    with pytest.raises(WorkerKilledError, match=r"killed 2 times in one epoch: .* --workers"):
        list(loader)


def test_one_of_two_processes_is_killed(data, tmp_path):
    settings = {"steps": 40, "val_set": None}
    assert start(make_config(data, tmp_path / "whole", **settings), TWO_PROCESSES) == 0
    config = make_config(data, tmp_path / "run", **settings)
    process = start(config, TWO_PROCESSES, wait=False, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    killed = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - killed < 60
    assert 0 < load_checkpoint(tmp_path / "run" / "last.pt")["step"] < 40
    config.resume = True
    assert start(config, TWO_PROCESSES) == 0
    assert equal_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_killed_at_a_random_moment(data, tmp_path, schedule):
    settings = SCHEDULES[schedule]
    began = time.monotonic()
    assert start(make_config(data, tmp_path / "whole", **settings)) == 0
    seconds = random.Random().uniform(0.3, 1.0) * (time.monotonic() - began)
    kills, is_equal = kill_at(data, tmp_path / "killed", settings, seconds, tmp_path / "whole")
    assert is_equal, f"killed {kills} times, first after {seconds} s"


# Data and losses


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_is_deleted_in_the_middle_of_an_epoch(tmp_path, workers):
    """The second epoch meets it: training stops and names it, or goes on without, repeatably."""
    histories = []
    for run in range(2):
        data = generate_synthetic(
            tmp_path / f"data-{run}", 24, 1, 3, image_size=(64, 64), progress=False
        )
        settings = {"steps": 24, "val_set": None, "workers": workers, "rehearsal": False}
        config = make_config(data, tmp_path / f"run-{run}", **settings, on_bad_data="skip")
        trainer = Trainer(config, open_dataset(config.data, "train"))
        take_step = trainer._take_step

        def deleting(parts, trainer=trainer, take_step=take_step):
            take_step(parts)
            if trainer.step == 12:
                os.unlink(trainer.dataset.samples.paths[7])

        trainer._take_step = deleting
        with pytest.warns(UserWarning, match="goes on without an image"):
            histories.append(trainer.run().history)
        assert len(trainer.loader.bad) == 1
        config = dataclasses.replace(config, on_bad_data="drop", overwrite=True)
        with pytest.raises(BadDataError, match=trainer.dataset.samples.paths[7]):
            train(config)
    assert histories[0] == histories[1] and len(histories[0]) == 24


class Things(torch.utils.data.Dataset):
    """Four images; the third is not a number."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
        if index == 2:
            image[:, 20:30, 20:30] = float("nan")
        boxes = torch.tensor([[5.0, 5, 40, 50 + index]])
        return image, {"boxes": boxes, "labels": torch.tensor([1]), "image_id": index}


def test_the_batch_of_a_loss_that_is_nan_is_kept_and_gives_it_again(tmp_path):
    config = make_config("", tmp_path, steps=6, val_set=None, rehearsal=False, accumulate=2)
    data = FromTorchvision(Things(), ["thing"])
    with pytest.raises(NonFiniteLossError) as raised:
        Trainer(config, data).run()
    (path,) = tmp_path.glob("nonfinite-step-*.pt")
    message = str(raised.value)
    assert f"at step {raised.value.step}, image_id" in message and repr(str(path)) in message
    losses = replay(path)
    named = {name: float(value) for name, value in losses.items()}
    assert any(value != value for value in named.values())
    for name, value in named.items():
        assert f"{name} {value:g}" in message
    for kept in torch.load(path)["parts"][0][1]:
        assert set(kept) >= {"boxes", "labels", "image_id"}


def test_a_diverged_run_says_where_it_kept_the_batch(data, tmp_path, capsys):
    command = ["train", "--data", str(data), "--output", str(tmp_path / "run"), "--no-progress"]
    command += ["--lr", "1e30", "--warmup-steps", "0", "--no-clip-grad-norm", "--steps", "9"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--no-rehearsal", "--batch-size", "2"])
    assert end.value.code == 1
    (path,) = (tmp_path / "run").glob("nonfinite-step-*.pt")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"fastrpn.training.replay({str(path)!r})" in said
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(lines) == torch.load(path)["step"] - 1


# Settings and folders


def test_a_former_run_is_not_replaced_unasked(data, whole, tmp_path):
    config = make_config(data, tmp_path, steps=2, val_set=None)
    train(config)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("last.pt", "previous.pt", "best.pt", "history.jsonl"):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / name).write_bytes(files.get(name, files["last.pt"]))
        with pytest.raises(ValueError, match=rf"{name}\): --resume goes on .* --overwrite"):
            train(config)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    alternating = make_config(data, tmp_path / "four", schedule="alternating", steps=2)
    (tmp_path / "four" / "2-fast-rcnn").mkdir(parents=True)
    (tmp_path / "four" / "2-fast-rcnn" / "last.pt").write_bytes(b"content")
    with pytest.raises(ValueError, match=r"2-fast-rcnn/last\.pt"):
        train(alternating)
    train(dataclasses.replace(config, overwrite=True))
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2


def test_resume_says_which_settings_differ(data, tmp_path):
    config = make_config(data, tmp_path, steps=4, val_set=None)
    train(config)
    harmless = {"workers": 1, "log_every": 1, "pictures": 2, "checkpoint_every": 1, "device": "cpu"}
    train(dataclasses.replace(config, resume=True, **harmless))
    changed = {"lr": 0.01, "steps": 6, "color_jitter": (0.1,), "seed": 5}
    config = dataclasses.replace(config, resume=True, **changed)
    with pytest.raises(ValueError) as raised:
        train(config)
    for said in ("lr 0.02 -> 0.01", "steps 4 -> 6", "color_jitter () -> (0.1,)", "seed 0 -> 5"):
        assert said in str(raised.value)
    assert "--allow-changes" in str(raised.value) and "workers" not in str(raised.value)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 4
    assert len(train(dataclasses.replace(config, allow_changes=True)).history) == 6


def test_resume_notices_that_the_data_has_grown(data, tmp_path):
    config = make_config(data, tmp_path, steps=2, val_set=None, resume=True)
    dataset = open_dataset(data, "train")
    Trainer(config, dataset).run()
    with pytest.raises(ValueError, match="trained on 8 images, the data set has 6"):
        Trainer(config, dataset.subset(range(6)))
    Trainer(dataclasses.replace(config, allow_changes=True), dataset.subset(range(6)))


COMMANDS = {
    "train": ["train", "--data", "DATA", "--output"],
    "eval": ["eval", "--checkpoint", "CHECKPOINT", "--data", "DATA", "--output"],
    "detect": ["detect", "DATA", "--checkpoint", "CHECKPOINT", "--output"],
    "proposals": ["proposals", "--checkpoint", "CHECKPOINT", "--data", "DATA", "--output"],
    "anchors": ["anchors", "--output"],
    "demo": ["demo", "--output"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_output_is_checked_before_any_work(data, whole, tmp_path, capsys, monkeypatch, command):
    words = {"DATA": str(data), "CHECKPOINT": f"{whole}/last.pt"}
    arguments = [words.get(word, word) for word in COMMANDS[command]]
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    of_folders = command in ("train", "detect", "demo")
    bad = [tmp_path / "file" / "below" / "x", tmp_path / ("file" if of_folders else "folder")]
    for path in bad:
        with pytest.raises(SystemExit) as end:
            main([*arguments, str(path)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1
        assert f"output {path}" in said
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a user without permission
    with pytest.raises(SystemExit) as end:
        main([*arguments, str(tmp_path / "new" / "x")])
    assert end.value.code == 2 and "cannot be written to" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
