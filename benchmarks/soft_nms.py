"""soft_nms against OpenCV's, on integer boxes, all that OpenCV's takes. torchvision has none.

The same boxes with the same scores are asserted, up to what rounding swaps.
Beside it stands the readable reference of fastrpn.ops.reference, which is no peer.
"""

from collections.abc import Callable

import numpy as np
import torchvision

from benchmarks import inputs
from benchmarks.timing import Measurement, measure
from fastrpn import ops
from fastrpn.ops import reference

SIGMA, IOU_THRESHOLD, SCORE_THRESHOLD = 0.5, 0.3, 0.05
OPENCV_CODES = {"linear": 1, "gaussian": 2}
SIZES = (100, 1_000, 10_000)
REFERENCE_BOXES = 300  # a Python loop over boxes


def equal(ours: tuple, theirs: tuple) -> bool:
    """The same boxes, and the same scores for all but one in 200.

    Rounding may swap two of nearly one score, and the second of two that overlap decays the most.
    """
    mine, wanted = ([np.asarray(part).reshape(-1) for part in pair] for pair in (ours, theirs))
    mine, wanted = ([part[np.argsort(pair[0])] for part in pair] for pair in (mine, wanted))
    if not np.array_equal(mine[0], wanted[0]):
        return False
    swapped = np.count_nonzero(~np.isclose(mine[1], wanted[1], atol=1e-5))
    return swapped <= len(mine[1]) / 200


def candidates(n: int, method: str) -> dict[str, Callable]:
    """Us, OpenCV where it is installed, and the reference where it is not too slow."""
    boxes, scores = inputs.dense_boxes(n, extent=20 * n**0.5)
    boxes = boxes.round()
    options = {
        "method": method,
        "sigma": SIGMA,
        "iou_threshold": IOU_THRESHOLD,
        "score_threshold": SCORE_THRESHOLD,
    }
    found = {"fastrpn": lambda: ops.soft_nms(boxes, scores, **options)}
    try:
        from cv2.dnn import softNMSBoxes

        xywh = torchvision.ops.box_convert(boxes, "xyxy", "xywh").int().numpy()
        arguments = SCORE_THRESHOLD, IOU_THRESHOLD, 0, SIGMA, OPENCV_CODES[method]
        found["opencv"] = lambda: softNMSBoxes(xywh, scores.numpy(), *arguments)[::-1]
    except ImportError:
        pass
    if n <= REFERENCE_BOXES:
        found["reference"] = lambda: reference.soft_nms(boxes, scores, **options)
    return found


def row(n: int, method: str, seconds: float) -> Measurement:
    work = f"{n:,} dense, {method}"
    found = candidates(n, method)
    return measure("soft_nms", work, n, found, equal=equal, seconds=seconds, min_runs=3)


def run(quick: bool = False) -> list[Measurement]:
    """Both weights, from 100 boxes to 10,000."""
    seconds = 0.3 if quick else 2.0
    sizes = SIZES[:-1] if quick else SIZES
    return [row(n, method, seconds) for method in OPENCV_CODES for n in sizes]
