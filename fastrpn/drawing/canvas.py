"""Drawing primitives on uint8 [H,W,3] RGB arrays: colours, boxes with tags, captions, panels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from fastrpn.images import image_to_array

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (20, 20, 20)
GREY: Colour = (150, 150, 150)

# Distinct on light and dark pictures and, as far as twelve can be, to colour-blind eyes.
PALETTE: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 118, 219),
    (42, 157, 80),
    (244, 162, 40),
    (140, 80, 200),
    (20, 180, 190),
    (233, 90, 180),
    (150, 105, 60),
    (170, 200, 40),
    (95, 110, 240),
    (255, 120, 90),
    (110, 130, 140),
)

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_of(label: int) -> Colour:
    """The colour of a class; label 1 has the first."""
    return PALETTE[(int(label) - 1) % len(PALETTE)]


def to_numpy(values: ArrayLike | Tensor) -> np.ndarray:
    """A tensor, on any device and with or without a gradient, an array or a list as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_boxes(boxes: ArrayLike | Tensor) -> np.ndarray:
    """Boxes as float32 [N,4].

    Raises:
        ValueError: they have another shape.
    """
    array = to_numpy(boxes).astype(np.float32)
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must be [N,4], got shape {array.shape}")
    return array


def enlarge(image: np.ndarray | Tensor, long_side: int) -> tuple[np.ndarray, float]:
    """A copy scaled so that its long side is `long_side` pixels, and the scale."""
    image = image_to_array(image)
    scale = long_side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    ), scale


def draw_box(
    image: np.ndarray, box: Sequence[float], colour: Colour, thickness: int = 2, halo: bool = False
) -> None:
    """Outlines an xyxy box along its edges, in place; a dark halo tells it from like colours."""
    x1, y1, x2, y2 = pixel_box(box)
    if halo:
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), BLACK, thickness + 2)
    cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, thickness)


def tag_box(image: np.ndarray, box: Sequence[float], colour: Colour, text: str) -> None:
    """Puts `text` on top of a box, or inside it where the image ends, in place."""
    x1, y1, _, _ = pixel_box(box)
    height = text_size(text)[1] + 6
    draw_tag(image, text, (x1 - 1, y1 - height if y1 >= height else y1), colour)


def pixel_box(box: Sequence[float]) -> list[int]:
    """Rounded coordinates; far outside any picture they are cut, since OpenCV takes int32."""
    values = [float(value) for value in box]  # NumPy would take longer for four
    return [0 if v != v else round(min(max(v, -1e5), 1e5)) for v in values]


def draw_tag(image: np.ndarray, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Text on a filled strip whose top left is at `corner`, moved inside the image, in place."""
    width, height = text_size(text)
    x = max(0, min(corner[0], image.shape[1] - width - 6))
    y = max(0, min(corner[1], image.shape[0] - height - 6))
    cv2.rectangle(image, (x, y), (x + width + 5, y + height + 5), colour, -1)
    ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 150 else WHITE
    write(image, text, (x + 3, y + height + 2), ink)


def write(
    image: np.ndarray, text: str, origin: tuple[int, int], colour: Colour, scale: float = 0.42
) -> None:
    """Text whose baseline starts at `origin`, in place."""
    cv2.putText(image, text, origin, _FONT, scale, colour, 1, cv2.LINE_AA)


def text_size(text: str, scale: float = 0.42) -> tuple[int, int]:
    """(width, height above the baseline) in pixels."""
    width, height = cv2.getTextSize(text, _FONT, scale, 1)[0]
    return width, height


def with_caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image under a white strip with `text` on it."""
    strip = np.full((24, image.shape[1], 3), 255, np.uint8)
    write(strip, text, (4, 17), BLACK, scale=0.5)
    return np.vstack([strip, image])


def tile(images: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Images on white in rows of `columns`, each at the top left of a cell of the largest size."""
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = gap + number // columns * height, gap + number % columns * width
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet
