"""A synthetic detection data set, written to disk in VOC layout.

Six shapes, varied in size, aspect, rotation, colour and texture, that may hide one another, on
textured backgrounds among things that are no objects: lines, wobbly blobs, strokes. Then blur,
noise and JPEG. Only the outline tells the class.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from fastrpn.data.synthetic.shapes import SHAPES
from fastrpn.data.synthetic.textures import random_colour, random_texture
from fastrpn.data.voc_xml import Annotation, format_annotation
from fastrpn.files import write_atomically
from fastrpn.images import encode_image

SYNTHETIC_CLASSES = list(SHAPES)

MAX_OBJECTS = 5
MIN_EXTENT, MAX_EXTENT = 0.22, 0.5  # of an object, relative to the image's short side
MAX_ROTATION = np.pi / 6  # either way
MIN_VISIBLE = 0.6  # an object is never hidden more than this leaves
DIFFICULT_VISIBLE = 0.75  # and is difficult when less than this shows
MIN_COLOUR_DISTANCE = 110.0  # between an object and what it is drawn on


@dataclass
class _Object:
    name: str
    mask: np.ndarray  # uint8 [H,W], 255 where it is to be seen
    box: tuple[int, int, int, int]  # xyxy, pixels
    area: int  # pixels of the whole object
    visible: float = 1.0  # the part of it that later objects leave to be seen


def generate_synthetic(
    root: str | Path,
    num_train: int,
    num_val: int,
    seed: int = 0,
    image_size: tuple[int, int] = (256, 256),
    progress: bool = True,
) -> Path:
    """Writes a data set for `VOCDataset(root, "train")` and `VOCDataset(root, "val")`.

    Equal arguments give equal files, byte for byte (with one version of OpenCV). Images depend on
    (seed, split, number) alone, so a larger set begins with the images of a smaller one. The image
    sets are written last: a run that was cut short leaves no set that looks complete.

    Args:
        root: folder to write into; VOC folders already there are replaced.
        num_train, num_val: images in each split, at least 1.
        seed: a non-negative integer.
        image_size: (height, width) in pixels, at least 64 each.
        progress: show a progress bar.

    Returns:
        `root` as a Path.
    """
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be positive, got {num_train}, {num_val}")
    if min(image_size) < 64:
        raise ValueError(f"image_size must be at least 64 x 64, got {image_size}")
    root = Path(root)
    for folder in ("ImageSets", "Annotations", "JPEGImages"):  # the sets first
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)

    jobs = [("train", i) for i in range(num_train)] + [("val", i) for i in range(num_val)]

    def write(job: tuple[str, int]) -> str:
        return _write_sample(root, *job, seed, image_size)

    with ThreadPoolExecutor() as pool:
        results = pool.map(write, jobs)
        names = list(track(results, "Drawing", total=len(jobs), disable=not progress))
    write_atomically(root / "classes.txt", ("\n".join(SYNTHETIC_CLASSES) + "\n").encode())
    for split, chosen in (("train", names[:num_train]), ("val", names[num_train:])):
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        write_atomically(path, ("\n".join(chosen) + "\n").encode())
    return root


def draw_scene(
    rng: np.random.Generator, image_size: tuple[int, int] = (256, 256)
) -> tuple[np.ndarray, Annotation]:
    """One image uint8 [H,W,3] RGB and its objects."""
    image = _background(rng, image_size)
    objects: list[_Object] = []
    for _ in range(rng.integers(1, MAX_OBJECTS + 1)):
        _add_object(rng, image, objects)
    for _ in range(rng.integers(0, 3)):
        _draw_line(rng, image)  # in front of the objects, too
    annotation = Annotation(
        boxes=np.array([o.box for o in objects], np.float32).reshape(-1, 4),
        names=[o.name for o in objects],
        difficult=np.array([o.visible < DIFFICULT_VISIBLE for o in objects], bool),
        size=image_size,
    )
    return _photograph(rng, image), annotation


def _write_sample(
    root: Path, split: str, number: int, seed: int, image_size: tuple[int, int]
) -> str:
    rng = np.random.default_rng([seed, ("train", "val").index(split), number])
    image, annotation = draw_scene(rng, image_size)
    name = f"{split}_{number:06d}"
    quality = int(rng.integers(60, 96))
    (root / "JPEGImages" / f"{name}.jpg").write_bytes(encode_image(image, ".jpg", quality))
    text = format_annotation(f"{name}.jpg", annotation)
    (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    return name


def _background(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    """A texture of low contrast with blobs and lines on it, uint8 [H,W,3]."""
    image = random_texture(rng, image_size, random_colour(rng), contrast=rng.uniform(0.06, 0.3))
    for _ in range(rng.integers(0, 6)):
        _draw_blob(rng, image)
    for _ in range(rng.integers(0, 6)):
        _draw_line(rng, image)
    return image


def _draw_blob(rng: np.random.Generator, image: np.ndarray) -> None:
    """A distractor: a blob with a wobbly outline like no object's."""
    height, width = image.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(angles)
    for waves in (2, 3, 5):
        radius += rng.uniform(0.12, 0.3) * np.sin(waves * angles + rng.uniform(0, 2 * np.pi))
    extent = min(height, width) * rng.uniform(0.03, 0.16)
    centre = rng.uniform((0, 0), (width, height))
    outline = centre + extent * radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    colour = random_colour(rng).tolist()
    cv2.fillPoly(image, [outline.astype(np.int32)], colour, cv2.LINE_AA)


def _draw_line(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    points = rng.uniform((0, 0), (width, height), (rng.integers(2, 5), 2)).astype(np.int32)
    thickness = int(rng.integers(1, 4))
    cv2.polylines(image, [points], False, random_colour(rng).tolist(), thickness, cv2.LINE_AA)


def _add_object(rng: np.random.Generator, image: np.ndarray, objects: list[_Object]) -> None:
    """Draws an object where it hides no other too much; draws nothing if it finds no such place."""
    for _ in range(10):
        new = _random_object(rng, image.shape[:2])
        visible = [_visible_part(old, new) for old in objects]
        if all(v >= MIN_VISIBLE for v in visible):
            break
    else:
        return
    for old, part in zip(objects, visible, strict=True):
        old.mask = cv2.subtract(old.mask, new.mask)
        old.visible = part
    _paint(rng, image, new)
    objects.append(new)


def _random_object(rng: np.random.Generator, image_size: tuple[int, int]) -> _Object:
    """A shape stretched, turned, scaled and placed at random, wholly inside the image."""
    name = SYNTHETIC_CLASSES[rng.integers(len(SYNTHETIC_CLASSES))]
    stretch = np.exp(rng.uniform(-0.3, 0.3))
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    contours = [c * (stretch, 1 / stretch) @ rotation for c in SHAPES[name]()]

    points = np.concatenate(contours)
    low, spread = points.min(axis=0), np.ptp(points, axis=0)
    extent = min(image_size) * np.exp(rng.uniform(np.log(MIN_EXTENT), np.log(MAX_EXTENT)))
    scale = extent / spread.max()
    corner = rng.uniform((1, 1), (image_size[1], image_size[0]) - spread * scale - 1)

    mask = np.zeros(image_size, np.uint8)
    outlines = [np.round(((c - low) * scale + corner) * 16).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, outlines, 255, cv2.LINE_AA, shift=4)
    x, y, width, height = cv2.boundingRect(cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1])
    return _Object(name, mask, (x, y, x + width, y + height), area=cv2.countNonZero(mask))


def _visible_part(old: _Object, new: _Object) -> float:
    return cv2.countNonZero(cv2.subtract(old.mask, new.mask)) / old.area


def _paint(rng: np.random.Generator, image: np.ndarray, thing: _Object) -> None:
    """Blends a textured fill, and sometimes a darker or brighter rim, into `image`."""
    x1, y1, x2, y2 = thing.box
    patch, mask = image[y1:y2, x1:x2], thing.mask[y1:y2, x1:x2]
    around = np.array(cv2.mean(patch)[:3], np.float32)
    colour = random_colour(rng)
    while np.linalg.norm(colour - around) < MIN_COLOUR_DISTANCE:
        colour = random_colour(rng)
    fill = random_texture(rng, patch.shape[:2], colour, contrast=rng.uniform(0.06, 0.36))
    if rng.random() < 0.4:
        rim = cv2.subtract(mask, cv2.erode(mask, np.ones((3, 3), np.uint8)))
        fill[rim > 0] = colour * rng.uniform(0.3, 0.7)
    alpha = (mask / np.float32(255))[..., None]
    patch[:] = alpha * fill + (1 - alpha) * patch


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light, blur and noise of a camera."""
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    gain, offset, noise = rng.uniform(0.75, 1.2), rng.uniform(-20, 20), rng.uniform(0, 14)
    exposed = np.clip(gain * np.arange(256) + offset, 0, 255).astype(np.uint8)
    # Normal noise out of 256 draws: random bytes choose among them, six times as fast.
    draws = (noise * rng.standard_normal(256)).astype(np.float32)
    grain = cv2.LUT(rng.integers(0, 256, image.shape[:2], np.uint8), draws)
    return cv2.add(cv2.LUT(image, exposed), cv2.merge([grain] * 3), dtype=cv2.CV_8U)
