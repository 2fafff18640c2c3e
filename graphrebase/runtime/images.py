"""Cheap images for probing a vision model: strokes, coloured noise and blobs, in thousands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRID = 32
"""Images are drawn on at most this many pixels a side and enlarged."""
_Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def pool(
    rng: np.random.Generator, count: int, shape: tuple[int, int, int], low: float, high: float
) -> np.ndarray:
    """Return images (count, channels, height, width), float32, of values low to high.

    A third each of strokes, 1/f noise and thresholded noise, with random contrast and, in colour,
    random tints.
    """
    from scipy import ndimage  # half a second that commands without probes need not wait

    channels, height, width = shape
    kinds: tuple[_Draw, ...] = (_strokes, _noise, _blobs)
    side = min(max(height, width), GRID)
    made = np.empty((count, channels, height, width), np.float32)
    for number in range(count):
        plane = kinds[number % len(kinds)](rng, side, side)
        if (height, width) != (side, side):
            plane = ndimage.zoom(plane, (height / side, width / side), order=1)
        ends = rng.uniform(0, 1, (2, channels, 1, 1))
        if rng.random() < 0.7:
            grey = np.sort(rng.choice([0.0, 1.0, rng.random()], 2, replace=False))
            ends[:] = grey[:, None, None, None]
        if rng.random() < 0.25:
            ends = ends[::-1]
        made[number] = ends[0] + (ends[1] - ends[0]) * plane[:height, :width]
    return low + (high - low) * made


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a few thick curves, 0 to 1."""
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    ink = np.zeros((height, width))
    time = np.linspace(0, 1, 20)[:, None]
    for _ in range(rng.integers(1, 5)):
        start, middle, end = rng.uniform(0.05, 0.95, (3, 2))
        curve = (1 - time) ** 2 * start + 2 * time * (1 - time) * middle + time**2 * end
        distance = (rows[..., None] - curve[:, 0]) ** 2 + (columns[..., None] - curve[:, 1]) ** 2
        radius = rng.uniform(0.03, 0.1)
        ink = np.maximum(ink, np.exp(-distance.min(-1) / (2 * radius**2)))
    return np.asarray(np.clip(1.4 * ink, 0, 1))


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise with a 1/f^a spectrum, 0 to 1."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    radius = np.maximum(np.hypot(y, x), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / radius ** rng.uniform(0.7, 2)
    plane = np.fft.irfft2(spectrum, (height, width))
    span = float(np.ptp(plane)) or 1.0
    return np.asarray((plane - plane.min()) / span)


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return smoothed noise cut at a level: filled shapes, 0 to 1."""
    from scipy import ndimage

    size = max(height, width) * rng.uniform(0.04, 0.15)
    plane = ndimage.gaussian_filter(rng.standard_normal((height, width)), size)
    level = np.quantile(plane, rng.uniform(0.4, 0.85))
    return np.asarray(ndimage.gaussian_filter((plane > level).astype(float), 0.6))
