"""Best rotations: polar factors, and balanced Procrustes maps inside attention heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrebase.align.body import FloatArray

TINY = 1e-12
"""Relative singular value below which a direction counts as absent."""
WORST_CONDITION = 1e6
"""Condition number of a map inside a head beyond which the head is degenerate: identity."""


def polar(matrix: FloatArray) -> FloatArray:
    """Return the orthogonal (or, if not square, semi-orthogonal) factor U V^T of a matrix."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(left @ right)


def balance(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return N and N^-T, (d, d), so that N X and N^-T Y have equal Gram matrices.

    With X^T Y = U S V^T: N = S^1/2 U^T X^+. Computed from QR factors of X^T and Y^T, d x d.

    Args:
        x: (d, n).
        y: (d, m).
    """
    rx, ry = (np.asarray(np.linalg.qr(z.T, mode="r")) for z in (x, y))
    left, values, _ = np.linalg.svd(rx @ ry.T)
    values = np.maximum(values, TINY * max(float(values[0]), TINY))
    scaled = np.sqrt(values)[:, None] * left.T
    back = np.linalg.pinv(rx, rcond=1e-10).T
    forward = left.T / np.sqrt(values)[:, None] @ rx
    return scaled @ back, forward


def circuit_map(x_b: FloatArray, y_b: FloatArray, x_a: FloatArray, y_a: FloatArray) -> FloatArray:
    """Return T (d, d) that maps X_A to X_B while T^-T maps Y_A to Y_B (balanced Procrustes).

    Args:
        x_b: (d, n); x_a: the same, in B's coordinates on the outside.
        y_b: (d, m); y_a: the same.
        x_a: see ``x_b``.
        y_a: see ``y_b``.
    """
    n_b, dual_b = balance(x_b, y_b)
    n_a, dual_a = balance(x_a, y_a)
    rotation = polar(n_b @ x_b @ (n_a @ x_a).T + dual_b @ y_b @ (dual_a @ y_a).T)
    found = np.asarray(np.linalg.pinv(n_b) @ rotation @ n_a)
    return found if np.linalg.cond(found) < WORST_CONDITION else np.eye(len(found))


def rotary_map(
    x_b: FloatArray,
    y_b: FloatArray,
    x_a: FloatArray,
    y_a: FloatArray,
    pairs: Sequence[tuple[int, int]],
) -> FloatArray:
    """Return the same under rotary embedding: one complex scalar per pair of positions.

    Positions in no pair get a map of their own.
    """
    size = len(x_b)
    result = np.zeros((size, size))
    first, second = (np.array([p[i] for p in pairs]) for i in (0, 1))
    z = [a[first] + 1j * a[second] for a in (x_b, y_b, x_a, y_a)]
    norms = [np.maximum(np.linalg.norm(a, axis=1), 1e-30) for a in z]
    n_b, n_a = np.sqrt(norms[1] / norms[0]), np.sqrt(norms[3] / norms[2])
    inner = n_b * n_a * (z[0] * z[2].conj()).sum(1) + (z[1] * z[3].conj()).sum(1) / (n_b * n_a)
    size_of = np.abs(inner)
    phase = np.where(size_of > 0, inner / np.where(size_of > 0, size_of, 1.0), 1.0)
    scalar = phase * n_a / n_b
    result[first, first] = result[second, second] = scalar.real
    result[first, second], result[second, first] = -scalar.imag, scalar.imag
    rest = np.setdiff1d(np.arange(size), np.concatenate([first, second]))
    if rest.size:
        result[np.ix_(rest, rest)] = circuit_map(x_b[rest], y_b[rest], x_a[rest], y_a[rest])
    return result
