"""Maps between residual streams from what runs through them: evidence, rotation and size.

At every residual point, the streams of A and B on the same inputs say how A's basis lies in B's;
the anchors at the two ends (rows that mean the same in both) say the rest. The rotation is the
polar factor of both, times the ratio of the streams' sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphrebase.align.anchored import MEAN_WEIGHT, Anchors
from graphrebase.align.body import FloatArray, Tower
from graphrebase.align.procrustes import polar


@dataclass(slots=True)
class Comparison:
    """Sums over tokens of two streams at one point, for rotation and size."""

    cross: FloatArray
    means: list[FloatArray] = field(default_factory=list)
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    raw_means: list[FloatArray] = field(default_factory=list)
    raw_squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    count: float = 0.0

    def add(self, b: FloatArray, a: FloatArray, weights: FloatArray, *, centred: bool) -> None:
        """Count a mini-batch of both streams, (tokens, D_B) and (tokens, D_A)."""
        self.count += float(weights.sum())
        normed = []
        for side, x in enumerate((b, a)):
            x = x - x.mean(axis=1, keepdims=True) if centred else x
            unit = x / np.maximum(np.sqrt((x**2).mean(axis=1, keepdims=True)), 1e-12)
            if len(self.means) <= side:
                self.means.append(np.zeros(x.shape[1]))
                self.raw_means.append(np.zeros(x.shape[1]))
            self.means[side] += weights @ unit
            self.raw_means[side] += weights @ x
            self.squares[side] += float(weights @ (unit**2).sum(1))
            self.raw_squares[side] += float(weights @ (x**2).sum(1))
            normed.append(unit)
        self.cross += (normed[0] * weights[:, None]).T @ normed[1]

    @property
    def evidence(self) -> FloatArray:
        """x_B^T x_A without the means over tokens, over both Frobenius norms."""
        n = max(self.count, 1.0)
        centred = self.cross - np.outer(*self.means) / n
        norms = _norms(self.squares, self.means, n)
        return centred / max(norms[0] * norms[1], 1e-300)

    @property
    def ratio(self) -> float:
        """||r_B - mean|| / ||r_A - mean||."""
        b, a = _norms(self.raw_squares, self.raw_means, max(self.count, 1.0))
        return b / a if a > 0 else 1.0


def _norms(squares: list[float], sums: list[FloatArray], count: float) -> tuple[float, float]:
    b, a = (
        float(np.sqrt(max(s - float(m @ m) / count, 0.0)))
        for s, m in zip(squares, sums, strict=True)
    )
    return b, a


@dataclass(frozen=True, slots=True)
class StreamMap:
    """How A's stream lies in B's at one point.

    Attributes:
        rotation: orthogonal (D_B, D_A), x_B = rotation x_A but for size; between different widths
            its columns or rows are orthonormal.
        ratio: size of B's stream over A's.
        correlation: of B's stream and A's rotated one, over all probes.
        chance: standard deviation of that correlation under a random rotation.
    """

    rotation: FloatArray
    ratio: float
    correlation: float
    chance: float

    @property
    def scaled(self) -> FloatArray:
        """Rotation and size."""
        return self.rotation * self.ratio


def map_streams(
    tower: Tower, seen: Mapping[str, Comparison], anchors: Anchors, *, weight: float
) -> dict[str, StreamMap]:
    """Return the map of every residual point of a stream.

    R_p = polar(2 (1 - u) E + 2 u H + weight * C_p), u the depth from 0 to 1, E and H the anchors
    of the input and output side, C_p the streams' evidence. (Matching heads and units on the
    weights as well, as `anchored` does, was measured to be no better.)

    Args:
        tower: the stream.
        seen: the comparison of both streams at every point.
        anchors: what the two ends say.
        weight: of the activations.
    """
    found = {}
    for place, point in enumerate(tower.points):
        depth = place / (len(tower.points) - 1) if len(tower.points) > 1 else 0.5
        evidence = seen[point].evidence
        total = 2 * (1 - depth) * anchors.first + 2 * depth * anchors.last + weight * evidence
        if tower.centred:
            total = total + MEAN_WEIGHT / np.sqrt(total.size)
        rotation = polar(total)
        found[point] = StreamMap(
            rotation,
            seen[point].ratio,
            float((rotation * evidence).sum()),
            float(np.linalg.norm(evidence)) / float(np.sqrt(max(evidence.shape))),
        )
    return found
