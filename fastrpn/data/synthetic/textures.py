"""Random fills for objects and backgrounds: uint8 [H,W,3] RGB."""

from __future__ import annotations

import cv2
import numpy as np


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour [3] of any hue, from greyish to saturated, from dark to bright."""
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(30, 255), rng.uniform(40, 250)
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def random_texture(
    rng: np.random.Generator, size: tuple[int, int], colour: np.ndarray, contrast: float
) -> np.ndarray:
    """A texture that mixes `colour` with another: flat, gradient, stripes, checks, clouds or dots.

    `contrast` in 0..1 is how far the second colour may lie from the first.
    """
    other = colour + contrast * (random_colour(rng) - colour)
    palette = np.linspace(colour, other, 256).astype(np.uint8)
    weight = _PATTERNS[rng.integers(len(_PATTERNS))](rng, size)
    index = (255 * weight).astype(np.uint8)
    return cv2.LUT(cv2.merge([index] * 3), palette[None])


# Patterns: float32 [H,W] in 0..1, the weight of the second colour.


def _flat(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.zeros(size, np.float32)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Distance in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.arange(size[0], dtype=np.float32)[:, None] - size[0] / 2
    x = np.arange(size[1], dtype=np.float32)[None, :] - size[1] / 2
    return np.cos(angle).astype(np.float32) * x + np.sin(angle).astype(np.float32) * y


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.clip(_ramp(rng, size) / max(size) + 0.5, 0, 1)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    period = rng.uniform(6, 24)
    return (_ramp(rng, size) % period < period * rng.uniform(0.3, 0.7)).astype(np.float32)


def _checks(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    cell = rng.integers(5, 16)
    rows, columns = np.arange(size[0]) // cell, np.arange(size[1]) // cell
    return ((rows[:, None] + columns[None, :]) % 2).astype(np.float32)


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Smooth noise: a small random grid, enlarged."""
    cells = int(rng.integers(3, 9))
    grid = rng.random((cells, cells), np.float32)
    return cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _dots(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    step = int(rng.integers(7, 14))
    tile = cv2.circle(np.zeros((step, step), np.float32), (step // 2, step // 2), step // 4, 1, -1)
    repeats = (-(-size[0] // step), -(-size[1] // step))
    return np.tile(tile, repeats)[: size[0], : size[1]]


_PATTERNS = (_flat, _gradient, _stripes, _checks, _clouds, _dots)
