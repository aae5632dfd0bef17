"""The result file of a GPU, one for all its benchmarks, and what one must know to compare two."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import torch
import torchvision

from fastrpn import __version__

RESULTS = Path(__file__).resolve().parent / "results"
ASKED = ["driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
         "power.limit", "ecc.mode.current"]  # fmt: skip


def environment(is_dry: bool) -> dict[str, object]:
    """The device, its driver and clocks, and the versions of the libraries."""
    return {
        "gpu": "none: dry run on the CPU" if is_dry else torch.cuda.get_device_name(),
        "device": {} if is_dry else device_state(),
        "versions": {
            "fastrpn": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
        },
    }


def device_state() -> dict[str, object]:
    """Size of the device and, where there is nvidia-smi, its driver and clocks."""
    properties = torch.cuda.get_device_properties(0)
    names = ("multi_processor_count", "L2_cache_size", "total_memory")
    state: dict[str, object] = {name: getattr(properties, name, None) for name in names}
    if shutil.which("nvidia-smi"):
        query = f"--query-gpu={','.join(ASKED)}"
        command = ["nvidia-smi", query, "--format=csv,noheader", "-i", "0"]
        answer = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        values = answer.splitlines()[0].split(", ") if answer else []
        state |= dict(zip(ASKED, values, strict=False))
    return state


def result_file(asked: Path | None, is_dry: bool) -> Path | None:
    """Where results go; None: nowhere. Ends the process if there is no GPU and no dry run."""
    if is_dry:
        return asked
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: only --dry-run works here")
    return asked or RESULTS / f"{gpu_name()}.json"


def gpu_name() -> str:
    """The device's name as part of a file's."""
    return torch.cuda.get_device_name().replace(" ", "-").replace("/", "-").lower()


def save(path: Path | None, part: str, results: dict[str, object]) -> None:
    """Writes one part and keeps the others; a reader sees the old file or the new one."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = json.loads(path.read_text()) if path.exists() else {}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(whole | {part: results}, indent=1) + "\n")
    os.replace(unfinished, path)


if __name__ == "__main__":
    print(gpu_name())
