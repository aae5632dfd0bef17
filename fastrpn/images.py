"""Images on disk, as arrays (uint8 [H,W,3] RGB) and as tensors (float32 [3,H,W] in 0..1)."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from fastrpn._extras import require

require("train")

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from fastrpn.errors import BadDataError
from fastrpn.files import write_atomically

# What an image is, wherever folders are searched; in the order of preference for equal names.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 178_956_970  # what Pillow, too, takes for an attack above

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_ORIENTATION = 274


def read_image(
    path: str | Path, exif: bool = False, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Decodes an image file into uint8 [H,W,3] RGB.

    Grey images are repeated, 16 bits become 8, alpha is left out, CMYK is converted.

    Args:
        exif: turn the image as its EXIF orientation says. Annotations usually count pixels as they
            are stored, so data sets do without unless they are told to.
        max_pixels: larger images are refused before they are decoded; None takes any.

    Raises:
        BadDataError: the file is missing, not an image, too large, or a JPEG that ends too early
            (OpenCV would fill the missing part with grey). The message names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadDataError(f"{path}: cannot read the image ({_reason(error)})") from error
    if content[:2] == b"\xff\xd8":
        size = _jpeg_size(path, content)  # in the walk that looks for the end anyway
    else:
        size = read_size(path) if max_pixels is not None else None
    if max_pixels is not None and size is not None and size[0] * size[1] > max_pixels:
        raise BadDataError(
            f"{path}: {size[1]}x{size[0]} are more than the {max_pixels} pixels that max_pixels "
            "allows",
            "too large",
        )
    image = _decode(content, exif)
    if image is None:
        raise BadDataError(f"{path}: not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_size(path: str | Path, exif: bool = False) -> tuple[int, int]:
    """(height, width) of an image in pixels, from its header.

    Raises:
        BadDataError: the file is missing or its header is no image's. The message names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                turned = exif and image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except (UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadDataError(f"{path}: not an image that can be read ({error})") from error
    except OSError as error:
        raise BadDataError(f"{path}: cannot read the image ({_reason(error)})") from error
    if height < 1 or width < 1:
        raise BadDataError(f"{path}: not an image, its size is {width}x{height}")
    return (width, height) if turned else (height, width)


def write_image(path: str | Path, image: np.ndarray, jpeg_quality: int = 95) -> Path:
    """Writes uint8 [H,W,3] RGB to `path` (.jpg or .png), whole or not at all."""
    content = encode_image(image, Path(path).suffix, jpeg_quality)
    return write_atomically(path, content, durable=False)  # a picture can be made again


def encode_image(image: np.ndarray, suffix: str, jpeg_quality: int = 95) -> bytes:
    """The content of an image file of uint8 [H,W,3] RGB; `suffix` is ".jpg" or ".png"."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix == ".jpg" else []
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


def array_as_rgb(image: np.ndarray) -> np.ndarray:
    """What :func:`read_image` would make of an image with these pixels: uint8 [H,W,3].

    Args:
        image: uint8 or uint16, grey [H,W] or [H,W,1], RGB [H,W,3] or with alpha [H,W,4].

    Raises:
        ValueError: another dtype or shape.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image must be an array of uint8 or uint16, got {image.dtype} {image.shape}; floats "
            "are taken as a tensor [3, H, W] in 0..1"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"image must have shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {image.shape}"
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def image_to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 [H,W,3] -> contiguous float32 [3,H,W] in 0..1."""
    # NumPy, not torch: an image is too small to be worth waking torch's threads.
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    planes /= 255
    return torch.from_numpy(planes)


def image_to_array(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """The inverse of `image_to_tensor`; a uint8 [H,W,3] array passes through.

    Raises:
        ValueError: `image` is neither.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image must be uint8 [H,W,3], got {image.dtype} {image.shape}")
        return image
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be [3,H,W], got {tuple(image.shape)}")
    pixels = image.detach().cpu().float().numpy().transpose(1, 2, 0)
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8, order="C")


def _decode(content: bytes, exif: bool) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR if exif else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # an empty file, or a header that claims an impossible size
        return None


def _jpeg_size(path: Path, content: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that is whole: its segments go on to its end marker; what follows
    that does not matter. None where no frame header says a size.

    A segment is FF, a marker and, but for a few, two bytes of length and so many bytes. In the
    entropy-coded data behind a start of scan FF is followed by 0 or by a restart marker.
    """
    position, size = 2, None
    while marker := _MARKER.match(content, position):
        code = marker[1][0]
        if code == _END:
            return size
        position = marker.end()
        if code in _FRAMES:
            height, width = (content[position + i : position + i + 2] for i in (3, 5))
            size = int.from_bytes(height, "big"), int.from_bytes(width, "big")
        if code not in _WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2], "big")
        if code == _SCAN:
            following = _AFTER_SCAN.search(content, position)
            position = following.start() if following else len(content)
    raise BadDataError(f"{path}: the JPEG file is truncated", "truncated image")


_MARKER = re.compile(rb"\xff+([\x01-\xfe])", re.DOTALL)
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
