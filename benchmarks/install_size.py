"""What an installation takes beyond torch: `python -m benchmarks.install_size WHEEL`.

Each set of extras goes into a fresh virtual environment that sees a torch installed once, in an
environment of its own. Size is that of all new files; seconds are those of `pip install`, by the
clock (downloads included) and of CPU time (which other work on the machine does not change).
"""

import argparse
import os
import resource
import subprocess
import tempfile
import time
import venv
from pathlib import Path

from benchmarks.tables import table

SETS = ("", "train", "all")


def packages_of(environment: Path) -> Path:
    """Its site-packages."""
    (folder,) = environment.glob("lib/python3*/site-packages")
    return folder


def megabytes(folder: Path) -> float:
    """Size of all files, in 1e6 bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def new_environment(folder: Path, base: Path | None = None) -> Path:
    """A virtual environment, which sees the packages of another one."""
    venv.create(folder, with_pip=True)
    if base is not None:
        (packages_of(folder) / "base.pth").write_text(f"{packages_of(base)}\n")
    return folder


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def install(environment: Path, *packages: str) -> list[str]:
    """Installs; returns how many packages came, megabytes, seconds and CPU seconds, as cells."""
    folder = packages_of(environment)
    before, packages_before = megabytes(folder), len(list(folder.glob("*.dist-info")))
    start, start_cpu = time.perf_counter(), cpu_seconds()
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*pip, *packages], env=clean, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip install {' '.join(packages)}:\n{done.stderr}")
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - start_cpu
    came = len(list(folder.glob("*.dist-info"))) - packages_before
    return [str(came), f"{megabytes(folder) - before:,.0f}", f"{seconds:.0f}", f"{cpu:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", default="torch", help='what to install first: "torch==2.13.0"')
    parser.add_argument("--base", type=Path, help="an environment that has that torch already")
    options = parser.parse_args()
    wheel = options.wheel.resolve(strict=True)
    with tempfile.TemporaryDirectory(prefix="install-") as name:
        folder = Path(name)
        base, rows = options.base, []
        if base is None:
            base = new_environment(folder / "torch")
            rows = [[options.torch, *install(base, options.torch, "numpy")]]
        for extras in SETS:
            environment = new_environment(folder / (extras or "core"), base)
            wanted = f"{wheel}[{extras}]" if extras else str(wheel)
            # Named again: a newer torchvision would bring a newer torch.
            cells = install(environment, wanted, options.torch)
            rows.append([f"fastrpn[{extras}]" if extras else "fastrpn", *cells])
    header = ["installed", "packages", "MB", "seconds", "CPU seconds"]
    print(table(header, rows, padded=True))


if __name__ == "__main__":
    main()
