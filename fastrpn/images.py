"""Images on disk, as arrays (uint8 [H,W,3] RGB) and as tensors (float32 [3,H,W] in 0..1)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from fastrpn.errors import BadDataError
from fastrpn.files import write_atomically

# EXIF orientation is not applied: annotations count pixels as they are stored.
_READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: str | Path) -> np.ndarray:
    """Decodes an image file into uint8 [H,W,3] RGB.

    Raises:
        BadDataError: the file is missing, not an image, or a JPEG that ends too early (OpenCV
            would fill the missing part with grey). The message names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadDataError(f"{path}: cannot read the image ({error.strerror})") from error
    if _is_truncated_jpeg(content):
        raise BadDataError(f"{path}: the JPEG file is truncated")
    image = _decode(content)
    if image is None:
        raise BadDataError(f"{path}: not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: str | Path, image: np.ndarray, jpeg_quality: int = 95) -> Path:
    """Writes uint8 [H,W,3] RGB to `path` (.jpg or .png), whole or not at all."""
    content = encode_image(image, Path(path).suffix, jpeg_quality)
    return write_atomically(path, content, durable=False)  # a picture can be made again


def encode_image(image: np.ndarray, suffix: str, jpeg_quality: int = 95) -> bytes:
    """The content of an image file of uint8 [H,W,3] RGB; `suffix` is ".jpg" or ".png"."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix == ".jpg" else []
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


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


def _decode(content: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), _READ_FLAGS)
    except cv2.error:  # an empty file, or a header that claims an impossible size
        return None


def _is_truncated_jpeg(content: bytes) -> bool:
    """A JPEG needs its end marker behind its last scan (bytes in a scan never look like one)."""
    return content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
