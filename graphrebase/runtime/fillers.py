"""Integer inputs made up: what they hold, as far as their names tell; masks, types, positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Filler = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]


def _ones(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    return np.ones(shape, np.int64)


def _zeros(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    return np.zeros(shape, np.int64)


def position(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """Return numbers that count up along the last axis."""
    if not shape:
        return np.zeros((), np.int64)
    return np.broadcast_to(np.arange(shape[-1]), shape)


def any_index(rng: np.random.Generator, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    """Return random numbers below the size of the vocabulary."""
    return rng.integers(0, vocabulary, shape)


#: Part of an integer input's name, and what to fill it with; the first that fits.
_FILLERS: tuple[tuple[str, Filler], ...] = (
    ("mask", _ones),
    ("token_type", _zeros),
    ("position", position),
)


def filler(name: str) -> Filler:
    """Return what fills an input."""
    return next((fill for part, fill in _FILLERS if part in name.lower()), any_index)
