"""Runs that are disturbed, and what is compared with an undisturbed one.

    python -m tests.training.kills --moments 50 --seed 0
    python -m tests.training.kills --changes 1000

kills trainings, joint and alternating, with SIGKILL: at random moments, or before one of their
changes to the run's folder (a file that is opened for writing, renamed, deleted), as many as asked
for. It lets each go on until it is finished, and compares weights, optimizer, histories and
evaluations with those of an undisturbed run, bit for bit.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # takes longer than a run: here, so that no fork imports it

from fastrpn.data import generate_synthetic
from fastrpn.files import UNFINISHED
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import TrainConfig, train
from fastrpn.training.config import STAGES
from fastrpn.training.log import write_config_file

TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
TWO_PROCESSES += ("-m", "fastrpn")


def make_config(data, output, **settings):
    settings = {"log_every": 2, "checkpoint_every": 2, "pictures": 0, **settings}
    return TrainConfig(
        data=str(data),
        output=str(output),
        model_options={"min_size": 64, "max_size": 64, "box_batch_size": 16},
        batch_size=2,
        warmup_steps=2,
        progress=False,
        **settings,
    )


def start(config, program=("-m", "fastrpn"), wait=True, **options):
    """Runs `fastrpn train`; its exit status, or the process without waiting for it."""
    file = write_config_file(f"{config.output}.yaml", config)
    command = [sys.executable, *program, "train", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, **options)
    return process.wait() if wait else process


def equal_runs(a, b):
    """Whether two runs have left the same, bit for bit; prints what differs."""
    found = differences(Path(a), Path(b))
    print("\n".join(found), end="\n" if found else "")
    return not found


def differences(a, b):
    """What differs between two runs: logs, weights, optimizers; and what `a` left unfinished."""
    names = ("history.jsonl", "evaluations.jsonl", "last.pt", "best.pt")
    found = []
    for name in [str(Path(folder, name)) for folder in ("", *STAGES) for name in names]:
        files = [run / name for run in (a, b) if (run / name).exists()]
        if len(files) == 1:
            found.append(f"{files[0]}: there alone")
        elif files and not _equal(*map(_compared, files)):
            found.append(f"{name}: differs")
    return found + [f"{path}: left unfinished" for path in a.rglob(f"{UNFINISHED}*")]


def _compared(path):
    """What of a file must be equal: of a checkpoint all but the settings, where `resume` is."""
    if path.suffix != ".pt":
        return path.read_bytes()
    content = load_checkpoint(path)
    del content["config"]
    return content


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) or bool((a.isnan() & b.isnan()).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b or (a != a and b != b)


SCHEDULES = {
    "joint": {"steps": 60, "eval_every": 5, "pictures": 1},
    "alternating": {"schedule": "alternating", "steps": 10, "rehearsal": False},
}


def kill_at(data, folder, settings, seconds, whole):
    """Kills a run after so many seconds, again and again at half the time that is left to it,
    until it finishes; how often it was killed, and whether it ended as the undisturbed run."""
    config = make_config(data, folder, resume=True, **settings)
    kills = 0
    while True:
        process = start(config, wait=False)
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            status = process.wait()
        if status == 0:
            return kills, equal_runs(folder, whole)
        if status != -signal.SIGKILL:
            return kills, False
        kills += 1
        if kills >= 2:
            seconds = None  # to the end


# Changes of a folder, by their names among Python's audit events.
CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod"}


def train_apart(config, kill_before=None):
    """Trains in a fork of this process, which must not have used threads yet.

    Args:
        kill_before: the number of the change, from 0, before which the fork kills itself.

    Returns:
        how many changes it made, or None if it was killed before it told.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def look(event, arguments):
            nonlocal count
            is_write = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or is_write) and str(arguments[0]).startswith(config.output):
                if count == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(look)
        status = 1
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                train(config)
            os.write(writer, str(count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as told:
        count = told.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"{config.output}: exit status {status}"
    return int(count) if count else None


SHORT = {
    "joint": {"steps": 8, "eval_every": 1, "pictures": 1},
    "alternating": {"schedule": "alternating", "steps": 2, "rehearsal": False},
}


def kill_before_changes(data, root, most, rng):
    """Kills runs of each schedule, each before one of its changes; (runs, those that did not end
    as undisturbed)."""
    runs = different = 0
    for name, settings in SHORT.items():
        changes = train_apart(make_config(data, root / name, resume=True, **settings))
        for change in sorted(rng.sample(range(changes), min(most, changes))):
            folder = root / f"{name}-{change}"
            config = make_config(data, folder, resume=True, **settings)
            assert train_apart(config, kill_before=change) is None
            train_apart(config)
            runs += 1
            if not equal_runs(folder, root / name):
                print(f"{name} killed before change {change} of {changes}", flush=True)
                different += 1
            shutil.rmtree(folder)
    return runs, different


def kill_at_moments(data, root, moments, rng):
    """Kills runs at random moments; (runs, those that did not end as undisturbed)."""
    taken = {}
    for name, settings in SCHEDULES.items():
        began = time.monotonic()
        assert start(make_config(data, root / name, **settings)) == 0
        taken[name] = time.monotonic() - began
        print(f"{name}: {taken[name]:.1f} s undisturbed", flush=True)
    kills = different = 0
    for moment in range(moments):
        name = ("joint", "alternating")[moment % 2]
        seconds = rng.uniform(0.1, 1.0) * taken[name]
        folder = root / f"{name}-{moment}"
        count, is_equal = kill_at(data, folder, SCHEDULES[name], seconds, root / name)
        kills, different = kills + count, different + (not is_equal)
        result = "equal" if is_equal else "DIFFERENT"
        when = f"killed {count} times, first after {seconds:.2f} s"
        print(f"{moment}: {name} {when}: {result}", flush=True)
    print(f"{kills} kills")
    return moments, different


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", type=int, help="at most so many of each schedule")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        data = generate_synthetic(root / "data", 8, 3, 3, image_size=(64, 64), progress=False)
        if options.changes:
            runs, different = kill_before_changes(data, root, options.changes, rng)
        else:
            runs, different = kill_at_moments(data, root, options.moments, rng)
    print(f"{runs - different} of {runs} runs equal")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
