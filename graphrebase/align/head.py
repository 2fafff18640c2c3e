"""A head fitted again in closed form: ridge regression from its inputs to the logits wanted.

A head that only A_ft has, moved into B's basis, reads features that B computes in its own way. The
last linear map is solved anew, W = W_0 + (sum w r x^T) (sum w x x^T + ridge * mean diagonal * I)^-1
with r what the moved head W_0 lacks to A_ft's own logits; features and r without their means, which
are the bias's to fit. How strongly it is held to W_0 is chosen by logits of samples left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.body import FloatArray

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Shares of the mean diagonal that are tried; the last hardly leaves the moved head."""
PARTS = 5
"""Parts of the samples that are left out in turn."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What a head reads and should say.

    Attributes:
        features: (N, D), its inputs.
        wanted: (N, C), logits.
        weights: (N,), 0 for what does not count.
        samples: (N,), the sample that every row belongs to.
    """

    features: FloatArray
    wanted: FloatArray
    weights: FloatArray
    samples: NDArray[np.int64]

    def picked(self, rows: NDArray[np.int64]) -> Readings:
        """Return some rows."""
        return Readings(*(getattr(self, n)[rows] for n in self.__slots__))


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map: weight (C, D) and bias (C,)."""

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Return (N, C) of features (N, D)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True, slots=True)
class Refit:
    """A head fitted again.

    Attributes:
        head: the head.
        ridge: the share of the mean diagonal that was chosen.
        lost: mean divergence from the wanted logits, on samples that the fit was made without; too
            little where these are recombined from the others (the ridge chosen by them was the
            best of four on two small BERT pairs all the same).
        moved: the same of the head that it started from.
    """

    head: Head
    ridge: float
    lost: float
    moved: float


def refit(readings: Readings, start: Head, *, has_bias: bool = True) -> Refit:
    """Return a head fitted to the wanted logits, held to the one it starts from.

    Args:
        readings: its inputs, and what it should say.
        start: the moved head.
        has_bias: whether its bias may change too.
    """
    lost = np.zeros(len(RIDGES))
    for seen, unseen in _parts(readings):
        heads = _solved(readings.picked(seen), start, has_bias)
        rest = readings.picked(unseen)
        lost += [_divergence(rest, head.logits(rest.features)) for head in heads]
    total = max(float(readings.weights.sum()), 1e-300)
    place = int(np.argmin(lost)) if lost.any() else len(RIDGES) // 2
    moved = _divergence(readings, start.logits(readings.features)) / total
    return Refit(
        _solved(readings, start, has_bias)[place], RIDGES[place], float(lost[place]) / total, moved
    )


def _parts(readings: Readings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows to fit and rows left out, whole samples at a time."""
    numbers = np.unique(readings.samples)
    parts = min(PARTS, len(numbers))
    place = np.searchsorted(numbers, readings.samples) % max(parts, 1)
    for part in range(parts if parts > 1 else 0):
        yield np.flatnonzero(place != part), np.flatnonzero(place == part)


def _solved(readings: Readings, start: Head, has_bias: bool) -> list[Head]:
    """Return the solution for every ridge, from one decomposition of the Gram matrix."""
    share = readings.weights / max(float(readings.weights.sum()), 1e-300)
    lacking = readings.wanted - start.logits(readings.features)
    middle, offset = share @ readings.features, share @ lacking
    if not has_bias:
        middle, offset = np.zeros_like(middle), np.zeros_like(offset)
    features, lacking = readings.features - middle, lacking - offset
    weighted = features * share[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ features)
    product = (weighted.T @ lacking).T @ vectors
    scale = max(float(values.sum()) / len(values), 1e-12)
    found = []
    for ridge in RIDGES:
        change = (product / (np.maximum(values, 0.0) + ridge * scale)) @ vectors.T
        found.append(Head(start.weight + change, start.bias + offset - change @ middle))
    return found


def _divergence(readings: Readings, logits: FloatArray) -> float:
    """Return the weighted sum of KL(wanted || logits); of squares, where there is one output."""
    if logits.shape[1] < 2:
        spread = float(readings.wanted.var()) or 1.0
        return float(readings.weights @ ((logits - readings.wanted) ** 2).sum(axis=1)) / spread
    wanted, found = _log_softmax(readings.wanted), _log_softmax(logits)
    return float(readings.weights @ (np.exp(wanted) * (wanted - found)).sum(axis=1))


def _log_softmax(logits: FloatArray) -> FloatArray:
    top = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(axis=1, keepdims=True)))
