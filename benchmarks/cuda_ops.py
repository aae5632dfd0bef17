"""Times the CUDA operators beside torchvision's: `python -m benchmarks.cuda_ops`.

CUDA events around each call; inputs rotate through copies that together exceed the L2 cache; median
and spread; peak memory of one call. Beside them the device's own speed of filling and copying
memory, measured here. Writes benchmarks/results/<gpu>.json. With --dry-run everything runs once, on
the CPU, with small inputs, and nothing is written.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision

from fastrpn import ops

RESULTS = Path(__file__).resolve().parent / "results"
L2_BYTES = 128 << 20  # more than any GPU's


@dataclass
class Row:
    """One op on one size; milliseconds and bytes by library."""

    work: str
    milliseconds: dict[str, float]
    spread: dict[str, float]
    peak_bytes: dict[str, int]


@dataclass
class Case:
    """The same work for each library; `make` gives the inputs, on the CPU."""

    work: str
    make: Callable[[], list[torch.Tensor]]
    libraries: dict[str, Callable[..., object]]
    backward: bool = False


class Timer:
    def __init__(self, device: str, runs: int) -> None:
        self.device, self.runs = device, runs

    def measure(self, case: Case) -> Row:
        inputs = [x.to(self.device) for x in case.make()]
        size = sum(x.numel() * x.element_size() for x in inputs)
        copies = 1 if self.device == "cpu" else max(1, min(16, L2_BYTES // max(size, 1)))
        sets = [[x.clone() for x in inputs] for _ in range(copies)]
        row = Row(case.work, {}, {}, {})
        for name, function in case.libraries.items():
            call = with_backward(function) if case.backward else function
            row.peak_bytes[name] = self.peak_bytes(call, sets[0])
            times = [self.once(call, sets[i % copies]) for i in range(self.runs + 3)][3:]
            quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
            row.milliseconds[name] = quartiles[1]
            row.spread[name] = (quartiles[2] - quartiles[0]) / quartiles[1]
        return row

    def once(self, call: Callable[..., object], inputs: list[torch.Tensor]) -> float:
        if self.device == "cpu":
            start = time.perf_counter()
            call(*inputs)
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call(*inputs)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def peak_bytes(self, call: Callable[..., object], inputs: list[torch.Tensor]) -> int:
        if self.device == "cpu":
            return 0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(*inputs)
        return torch.cuda.max_memory_allocated() - before


def with_backward(function: Callable[..., torch.Tensor]) -> Callable[..., object]:
    def run(features: torch.Tensor, rois: torch.Tensor) -> object:
        features = features.requires_grad_()
        output = function(features, rois)
        return torch.autograd.grad(output, features, torch.ones_like(output))

    return run


def boxes_and_scores(n: int, extent: float, side: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(n, 2, generator=generator) * extent
    sides = side * (0.5 + torch.rand(n, 2, generator=generator))
    return [torch.cat([corners, corners + sides], dim=1), torch.rand(n, generator=generator)]


def features_and_rois(shape: tuple[int, ...], rois: int, scale: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator)
    extent = torch.tensor([shape[3], shape[2]]) / scale
    corners = torch.rand(rois, 2, generator=generator) * extent * 0.7
    sides = torch.rand(rois, 2, generator=generator) * extent * 0.3
    zeros = torch.zeros(rois, 1)
    return [features, torch.cat([zeros, corners, corners + sides], dim=1)]


def channels_last(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [inputs[0].contiguous(memory_format=torch.channels_last), inputs[1]]


def nms_cases(small: bool) -> Iterator[Case]:
    both = {
        "fastrpn": lambda b, s: ops.nms(b, s, 0.7),
        "torchvision": lambda b, s: torchvision.ops.nms(b, s, 0.7),
    }
    for n in [300] if small else [300, 2000, 6000, 12000]:
        yield Case(f"nms {n} @0.7", lambda n=n: boxes_and_scores(n, 600, 200), both)
    n = 2000 if small else 100_000
    dense = {
        "fastrpn": lambda b, s: ops.nms(b, s, 0.5),
        "torchvision": lambda b, s: torchvision.ops.nms(b, s, 0.5),
    }
    yield Case(f"nms {n} dense @0.5", lambda: boxes_and_scores(n, 4000, 30), dense)
    yield batched_case(2 if small else 8, 500 if small else 20_000)


def batched_case(images: int, n: int) -> Case:
    groups = torch.arange(n) % 80

    def ours(boxes, scores):
        group = groups.to(boxes.device).expand(images, n)
        shape = (images, n, 4)
        return ops.nms_padded(
            boxes.expand(shape), scores.expand(images, n), 0.5, 1000, groups=group
        )

    def theirs(boxes, scores):
        group = groups.to(boxes.device)
        return [torchvision.ops.batched_nms(boxes, scores, group, 0.5) for _ in range(images)]

    libraries = {"fastrpn": ours, "torchvision": theirs}
    return Case(
        f"batched_nms {n} x 80 classes, {images} images",
        lambda: boxes_and_scores(n, 800, 60),
        libraries,
    )


def other_cases(small: bool) -> Iterator[Case]:
    rows = 500 if small else 200_000
    columns = 20 if small else 400
    yield Case(
        f"box_iou {rows} x {columns}",
        lambda: [boxes_and_scores(rows, 800, 60)[0], boxes_and_scores(columns, 800, 60)[0]],
        {"fastrpn": ops.box_iou, "torchvision": torchvision.ops.box_iou},
    )
    maps = [((1, 512, 38, 50), 1 / 16), ((1, 256, 200, 272), 1 / 4)]
    if small:
        maps = [((1, 16, 19, 25), 1 / 16)]
    count = 20 if small else 2000
    pools = {
        "roi_pool": (
            lambda x, r, scale: ops.roi_pool(x, r, 7, scale),
            lambda x, r, scale: torchvision.ops.roi_pool(x, r, 7, scale),
        ),
        "roi_align": (
            lambda x, r, scale: ops.roi_align(x, r, 7, scale, 2, True),
            lambda x, r, scale: torchvision.ops.roi_align(x, r, 7, scale, 2, True),
        ),
    }
    for name, (ours, theirs) in pools.items():
        for shape, scale in maps:
            for backward in (False, True):
                yield Case(
                    f"{name}{' + backward' if backward else ''} {shape}, {count} RoIs",
                    lambda shape=shape, scale=scale: features_and_rois(shape, count, scale),
                    {
                        "fastrpn": lambda x, r, f=ours, s=scale: f(x, r, s),
                        "torchvision": lambda x, r, f=theirs, s=scale: f(x, r, s),
                    },
                    backward,
                )
            yield Case(
                f"{name}, channels last {shape}, {count} RoIs",
                lambda shape=shape, scale=scale: channels_last(
                    features_and_rois(shape, count, scale)
                ),
                {"fastrpn": lambda x, r, f=ours, s=scale: f(x, r, s)},
            )


def memory_cases(small: bool) -> Iterator[Case]:
    size = 1 << 16 if small else 1 << 28
    floats = [torch.zeros(size // 4)]
    yield Case(f"fill of {size} bytes", lambda: floats, {"fill": lambda x: x.fill_(1.0)})
    yield Case(f"copy of {size} bytes", lambda: floats, {"copy": lambda x: x.clone()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="once, small, on the CPU")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<gpu>.json")
    options = parser.parse_args()
    dry = options.dry_run
    timer = Timer("cpu" if dry else "cuda", 1 if dry else 50)
    rows = []
    for cases in (memory_cases, nms_cases, other_cases):
        for case in cases(dry):
            row = timer.measure(case)
            rows.append(row)
            times = "  ".join(f"{k} {v:.4f} ms" for k, v in row.milliseconds.items())
            print(f"{row.work:60} {times}", flush=True)
    if dry:
        print("dry run: nothing written")
        return
    name = torch.cuda.get_device_name().replace(" ", "-").lower()
    output = options.output or RESULTS / f"{name}.json"
    environment = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
    }
    result = {"environment": environment, "rows": [asdict(row) for row in rows]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
