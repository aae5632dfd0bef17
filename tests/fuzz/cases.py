"""The operators that are fuzzed, and what runs one case of one of them."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from . import accelerated, arrays, box_functions, proposals, rois, suppression
from .trial import Trial

Case = Callable[[Trial], None]

CPU: dict[str, Case] = {
    case.__name__: case
    for case in (
        suppression.nms,
        suppression.batched_nms,
        suppression.nms_padded,
        suppression.soft_nms,
        box_functions.box_iou,
        box_functions.generalized_box_iou,
        box_functions.distance_box_iou,
        box_functions.complete_box_iou,
        box_functions.box_area,
        box_functions.box_convert,
        box_functions.clip_boxes_to_image,
        box_functions.remove_small_boxes,
        box_functions.encode_boxes,
        box_functions.decode_boxes,
        proposals.match_anchors,
        proposals.generate_proposals,
        rois.roi_pool,
        rois.roi_align,
        rois.multiscale_roi_align,
        rois.multiscale_module,
        arrays.numpy_box_iou,
        arrays.numpy_nms,
        arrays.numpy_batched_nms,
        arrays.numpy_soft_nms,
        accelerated.accelerated_box_iou,
        accelerated.accelerated_nms,
        accelerated.accelerated_batched_nms,
        accelerated.accelerated_roi_pool,
        accelerated.accelerated_roi_align,
    )
}
CUDA_NAMES = (
    "cuda_box_iou",
    "cuda_nms",
    "cuda_soft_nms",
    "cuda_match_anchors",
    "cuda_generate_proposals",
    "cuda_roi_pool",
    "cuda_roi_align",
)
NAMES = (*CPU, *CUDA_NAMES)


def find(op: str) -> Case:
    """What draws and checks a case of an operator.

    Raises:
        ValueError: no such operator.
    """
    if op in CUDA_NAMES:
        from . import cuda  # needs a compiler

        return getattr(cuda, op)
    if op not in CPU:
        raise ValueError(f"op: expected one of {', '.join(NAMES)}, got {op!r}")
    return CPU[op]


@dataclass
class Finding:
    """A case that failed, and why."""

    case: str  # what --replay takes
    message: str


@dataclass
class Outcome:
    """What one case came to."""

    calls: int
    undecided: int
    finding: Finding | None = None


def run_case(case: str) -> Outcome:
    """Runs the case `op:seed:index`, or with `:limit` a smaller one."""
    trial = Trial(case)
    try:
        find(trial.op)(trial)
    except Exception as error:  # whatever an operator raises on legal input is a finding
        return Outcome(trial.calls, trial.undecided, Finding(case, _words(error)))
    return Outcome(trial.calls, trial.undecided)


def shrunk(finding: Finding) -> Finding:
    """The same fault with the smallest limit on sizes that still shows it."""
    for limit in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128):
        smaller = run_case(f"{finding.case}:{limit}").finding
        if smaller:
            return smaller
    return finding


def _words(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename.split('/')[-1]}:{where.lineno})"[
        :1500
    ]
