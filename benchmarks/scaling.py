"""Training speed against the number of processes, one thread each.

    python -m benchmarks.scaling

A batch holds the same images however many processes share it, so all runs train the same. Runs of
different numbers of processes alternate; each starts torchrun anew, so that nothing is shared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.tables import table
from fastrpn import distributed
from fastrpn.data import generate_synthetic, open_dataset
from fastrpn.training import TrainConfig, Trainer

WARM_UP = 5  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--image-size", type=int, nargs=2, default=[160, 160], metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=8, help="images in all processes")
    parser.add_argument("--steps", type=int, default=40, help="timed, after a few of warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)  # says: measure, do not launch
    options = parser.parse_args()
    if options.data:
        measure(options)
    else:
        launch(options)


def launch(options: argparse.Namespace) -> None:
    """Starts the measurements, prints a table."""
    speeds: dict[int, list[float]] = {count: [] for count in options.processes}
    with tempfile.TemporaryDirectory() as folder:
        generate_synthetic(folder, 64, 1, image_size=tuple(options.image_size), progress=False)
        for _ in range(options.repeats):
            for count in options.processes:
                speeds[count].append(_run(count, folder))
    first = statistics.median(speeds[options.processes[0]])
    rows = []
    for count, values in speeds.items():
        median = statistics.median(values)
        rows.append(
            {
                "processes": count,
                "images/s": round(median, 2),
                "lowest": round(min(values), 2),
                "highest": round(max(values), 2),
                "speed-up": round(median / first, 2),
            }
        )
    print(table(list(rows[0]), (row.values() for row in rows), padded=True))
    if options.output:
        names = ("model", "image_size", "batch_size", "steps")
        setting = {name: getattr(options, name) for name in names}
        options.output.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def measure(options: argparse.Namespace) -> None:
    """In every process: trains for a while; the main one prints the images a second."""
    with distributed.process_group(), tempfile.TemporaryDirectory() as output:
        config = TrainConfig(
            data=str(options.data),
            output=output,
            model=options.model,
            model_options={"min_size": min(options.image_size)},
            batch_size=options.batch_size,
            steps=WARM_UP + options.steps,
        )
        trainer = Trainer(config, open_dataset(options.data, "train"))
        trainer.objective.train()
        for step, parts in enumerate(islice(trainer.batches(), trainer.total)):
            if step == WARM_UP:
                distributed.barrier()
                start = time.perf_counter()
            trainer.update(parts)
        distributed.barrier()
        if distributed.is_main():
            print(options.steps * options.batch_size / (time.perf_counter() - start))


def _run(processes: int, data: str) -> float:
    """Images a second."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "benchmarks.scaling", *sys.argv[1:], "--data", data]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
