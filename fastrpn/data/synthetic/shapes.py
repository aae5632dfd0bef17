"""The outlines of the synthetic objects: contours in the square [-1, 1] x [-1, 1].

Each function returns a list of float [N,2] contours. Where they overlap they cut holes (even-odd
rule), which is how a ring is made.
"""

from __future__ import annotations

import numpy as np


def _arc(start: float, end: float, radius: float = 1.0, points: int = 48) -> np.ndarray:
    angles = np.linspace(start, end, points)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def disc() -> list[np.ndarray]:
    return [_arc(0, 2 * np.pi)]


def rectangle() -> list[np.ndarray]:
    return [np.array([(-1, -0.8), (1, -0.8), (1, 0.8), (-1, 0.8)])]


def triangle() -> list[np.ndarray]:
    return [_arc(-np.pi / 2, 3 * np.pi / 2, points=4)[:3]]


def star() -> list[np.ndarray]:
    """Five points; the notches lie at 0.42 of the radius."""
    corners = _arc(-np.pi / 2, 3 * np.pi / 2, points=11)[:10]
    corners[1::2] *= 0.42
    return [corners]


def cross() -> list[np.ndarray]:
    """A plus with arms a third of its width."""
    a = 0.32
    return [
        np.array(
            [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
            + [(a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
        )
    ]


def ring() -> list[np.ndarray]:
    return [_arc(0, 2 * np.pi), _arc(0, 2 * np.pi, radius=0.55)]


SHAPES = {
    function.__name__: function for function in (disc, rectangle, triangle, star, cross, ring)
}
