"""The constants of the CUDA kernels that were chosen by counting, and the values to try.

An instance is a copy of the kernels in which some text stands for other text: the kernels know
nothing of it, and no library that is installed holds one.
"""

from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"


@dataclass(frozen=True)
class Constant:
    """One choice of an op.

    Attributes:
        op: whose instances it makes, as the folder in csrc/ops.
        name: as in the source, or what it decides.
        text: {file under csrc: the line that holds the value, with {} for it}; the files have
            their values in this order.
        chosen: the values that the sources hold.
        others: the values to try instead.
        only: the first word of the works that it concerns; "": all.
    """

    op: str
    name: str
    text: tuple[tuple[str, str], ...]
    chosen: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]
    only: str = ""


@dataclass(frozen=True)
class Instance:
    """The kernels of an op with one constant changed; with none, as they are."""

    op: str
    constant: Constant | None = None
    values: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As part of a file's name: "nms", "nms-kThreads-128"."""
        if self.constant is None:
            return self.op
        parts = [self.op, self.constant.name, *self.values]
        return "-".join(parts).replace(" ", "").replace("*", "x")

    def sources(self) -> dict[str, str]:
        """{file under csrc: its text with the change}.

        Raises:
            ValueError: the sources do not hold the chosen value, in that line, once.
        """
        changed: dict[str, str] = {}
        if self.constant is None:
            return changed
        constant = self.constant
        for (file, line), old, new in zip(constant.text, constant.chosen, self.values, strict=True):
            text = changed.get(file) or (CSRC / file).read_text()
            found = text.count(line.format(old))
            if found != 1:
                raise ValueError(f"{file}: {line.format(old)!r} occurs {found} times, not once")
            changed[file] = text.replace(line.format(old), line.format(new))
        return changed


def of_one(op: str, name: str, file: str, line: str, chosen: str, *others: str, only: str = ""):
    """A constant that is one number."""
    return Constant(op, name, ((file, line),), (chosen,), tuple((v,) for v in others), only)


def threads(op: str, chosen: str, *others: str) -> Constant:
    file = f"ops/{op}/{op}_cuda.cu"
    return of_one(op, "kThreads", file, "constexpr int kThreads = {};", chosen, *others)


def forward_constants(op: str) -> list[Constant]:
    values = {
        "kForwardThreads": ("224", "112", "448"),
        "kSlice": ("32", "16", "64"),
        "kCellsAhead": ("2", "1", "4"),
    }
    return [
        of_one(op, name, "cuda/roi_forward.h", f"int {name} = {{}};", *of_name, only="forward")
        for name, of_name in values.items()
    ]


def gradient(op: str, name: str, file: str, type_and_value: str, chosen: str, *others: str):
    line = f"constexpr {type_and_value};"
    return of_one(op, name, f"cuda/gradient_{file}.h", line, chosen, *others, only="backward")


def gradient_constants(op: str) -> list[Constant]:
    return [
        gradient(
            *(op, "kGradientBlocks", "tile", "int64_t kGradientBlocks = {}"),
            *("1024", "0", "512", "4096"),
        ),
        gradient(op, "kLeastWarps", "tile", "int kLeastWarps = {}", "4", "2", "8"),
        gradient(op, "kAhead", "stage", "int kAhead = {} / int(sizeof(C))", "32", "16"),
        gradient(op, "kTurns", "stage", "int kTurns = {}", "4", "2", "8"),
    ]


WORKSPACE = "ops/nms/workspace_cuda.h"
CONSTANTS = [
    of_one("nms", "kMaxChunk", WORKSPACE, "constexpr int kMaxChunk = {};", "4096", "1024", "2048"),
    of_one(
        *("nms", "ranks_by_counting", WORKSPACE, "return args.n <= {} && args.batch"),
        *("kMaxChunk", "0", "1024", "2048", "2 * kMaxChunk", "4 * kMaxChunk"),
    ),
    of_one(
        *("nms", "sweeps_in_order", WORKSPACE, "return args.n > {} * kMaxChunk;"),
        *("4", "1", "2", "32"),
    ),
    of_one(
        *("nms", "first_chunk_of", WORKSPACE, "ceil_div({} * args.max_output, int64_t"),
        *("4", "2", "8", "16"),
    ),
    of_one(
        *("nms", "largest_segment", WORKSPACE, "max(int64_t({}), args.n / 16)"),
        *("1024", "512", "2048"),
    ),
    of_one("nms", "kThreads", WORKSPACE, "constexpr int kThreads = {};", "256", "128", "512"),
    of_one(
        *("nms", "kReduceThreads", "ops/nms/chunk_cuda.h", "constexpr int kReduceThreads = {};"),
        *("512", "256", "1024"),
    ),
    of_one(
        *("nms", "kThreadsPerRow", "ops/nms/order_cuda.h", "constexpr int kThreadsPerRow = {};"),
        *("8", "4", "16", "32"),
    ),
    of_one(
        *("nms", "kSweepRound", "ops/nms/sweep_cuda.h", "constexpr int kSweepRound = {};"),
        *("1024", "256", "512"),
    ),
    of_one(
        *("nms", "kSweepBlocks", "ops/nms/sweep_cuda.h", "constexpr int64_t kSweepBlocks = {};"),
        *("1024", "256", "4096"),
    ),
    of_one(
        *("nms", "kTilesAhead", "ops/nms/chunk_cuda.h", "constexpr int kTilesAhead = {};"),
        *("2", "1", "3"),
    ),
    of_one(
        *("box_iou", "kRowsPerThread", "ops/box_iou/box_iou_cuda.cu"),
        *("constexpr int kRowsPerThread = {};", "8", "2", "4", "16", "32"),
    ),
    threads("box_iou", "256", "128", "512"),
    threads("match_anchors", "256", "128", "512"),
    threads("soft_nms", "1024", "256", "512"),
    *forward_constants("roi_pool"),
    *gradient_constants("roi_pool"),
    *forward_constants("roi_align"),
    *gradient_constants("roi_align"),
]


def instances(is_dry: bool = False) -> list[Instance]:
    """Every op as it is, then with each other value; in a dry run with one of each constant."""
    found = [Instance(op) for op in dict.fromkeys(constant.op for constant in CONSTANTS)]
    for constant in CONSTANTS:
        values = constant.others[-1:] if is_dry else constant.others
        found += [Instance(constant.op, constant, value) for value in values]
    return found
