"""Runs that are disturbed, and what is compared with an undisturbed one.

    python -m tests.training.kills --moments 50 --seed 0

kills trainings, joint and alternating, at random moments with SIGKILL, lets each go on until it is
finished, and compares weights, optimizer, histories and evaluations with those of an undisturbed
run, bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fastrpn.data import generate_synthetic
from fastrpn.models.checkpoint import load_checkpoint
from fastrpn.training import TrainConfig
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
    """Whether two runs have left the same, bit for bit: weights, optimizers, logs."""
    a, b = Path(a), Path(b)
    for folder in ("", *STAGES):
        for name in ("history.jsonl", "evaluations.jsonl"):
            files = [run / folder / name for run in (a, b)]
            if files[0].exists() != files[1].exists():
                return False
            if files[0].exists() and files[0].read_bytes() != files[1].read_bytes():
                return False
        for name in ("last.pt", "best.pt"):
            files = [run / folder / name for run in (a, b)]
            if files[0].exists() != files[1].exists():
                return False
            if files[0].exists() and not _equal(*map(_compared, files)):
                return False
    return not [path for path in a.rglob(".fastrpn-unfinished*")]


def _compared(path):
    """What of a checkpoint must be equal: all but the settings, among which is `resume`."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        data = generate_synthetic(root / "data", 8, 3, 3, image_size=(64, 64), progress=False)
        taken = {}
        for name, settings in SCHEDULES.items():
            began = time.monotonic()
            assert start(make_config(data, root / name, **settings)) == 0
            taken[name] = time.monotonic() - began
            print(f"{name}: {taken[name]:.1f} s undisturbed", flush=True)
        kills = survived = 0
        for moment in range(options.moments):
            name = ("joint", "alternating")[moment % 2]
            seconds = rng.uniform(0.1, 1.0) * taken[name]
            folder = root / f"{name}-{moment}"
            count, is_equal = kill_at(data, folder, SCHEDULES[name], seconds, root / name)
            kills, survived = kills + count, survived + is_equal
            result = "equal" if is_equal else "DIFFERENT"
            when = f"killed {count} times, first after {seconds:.2f} s"
            print(f"{moment}: {name} {when}: {result}", flush=True)
    print(f"{survived} of {options.moments} runs equal after {kills} kills")
    sys.exit(survived != options.moments)


if __name__ == "__main__":
    main()
