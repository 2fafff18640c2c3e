"""Linear assignment: the permutation that maximises a similarity, exactly and fast.

A linear assignment is unchanged by subtracting a constant from a column or a row. Subtracting
entropic (Sinkhorn) column potentials first leaves the optimum exact and brings the matrix so close
to solved that shortest augmenting paths have little left to do; then each row's maximum, without
which lapx 0.11 ignores the hint (2.8 s in place of 0.05 s at n = 3072). Cost: O(n^3) at worst, in
practice 25 passes over the matrix and a few augmentations.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Solver = Callable[[FloatArray], IndexArray]

SMALL = 256
"""Below this size potentials cost more than they save."""
NEAR_SOLVED = 0.9
"""Share of distinct row maxima above which the matrix is solved as it is."""
SINKHORN_ROUNDS = 25
SINKHORN_TEMPERATURE = 0.12
"""Entropic temperature in standard deviations of the similarity."""


def best_permutation(similarity: NDArray[Any]) -> IndexArray:
    """Return p that maximises sum_j similarity[j, p[j]].

    Args:
        similarity: (n, n), finite. Rows are B's indices, columns A's.

    Returns:
        int64 (n,), an exact optimum, the same for the same input.
    """
    values = np.asarray(similarity, dtype=np.float64)
    best = values.argmax(axis=1)
    distinct = np.unique(best).size
    if distinct == len(values):
        return np.asarray(best, dtype=np.int64)
    if len(values) >= SMALL and distinct < NEAR_SOLVED * len(values):
        values = values - column_potentials(values)
    return _solver()(values.max(axis=1, keepdims=True) - values)


def column_potentials(similarity: FloatArray) -> FloatArray:
    """Return Sinkhorn potentials (n,) of the columns; only speed depends on their precision.

    Alternates the two log-normalisations of exp(S / eps), eps = 0.12 standard deviations, in
    float32; on overflow or a constant matrix the potentials are zero.
    """
    spread = float(similarity.std())
    if not np.isfinite(spread) or spread == 0.0:
        return np.zeros(len(similarity))
    eps = SINKHORN_TEMPERATURE * spread
    kernel = ((similarity - similarity.max(axis=1, keepdims=True)) / eps).astype(np.float32)
    np.exp(np.maximum(kernel, -80.0), out=kernel)
    rows = np.ones(len(similarity), dtype=np.float32)
    columns = rows
    with np.errstate(all="ignore"):
        for _ in range(SINKHORN_ROUNDS):
            columns = 1.0 / (rows @ kernel)
            rows = 1.0 / (kernel @ columns)
        potentials = -eps * np.log(columns.astype(np.float64))
    return potentials if np.isfinite(potentials).all() else np.zeros(len(similarity))


@cache
def _solver() -> Solver:
    """Return lapx's Jonker-Volgenant if installed (it releases the GIL), else scipy's."""
    try:
        version("lapx")  # `lap`, of the same import name, holds the GIL and is not used
        _ = importlib.import_module("lap").lapjvr
    except (PackageNotFoundError, ImportError, AttributeError):
        return solve_scipy
    return solve_lapx


def solve_scipy(cost: FloatArray) -> IndexArray:
    """Return the optimal column of each row of a cost matrix (n, n), by scipy."""
    from scipy.optimize import linear_sum_assignment  # half a second that `inspect` need not wait

    return np.asarray(linear_sum_assignment(cost)[1], dtype=np.int64)


def solve_lapx(cost: FloatArray) -> IndexArray:
    """Return the optimal column of each row of a cost matrix (n, n), by lapx."""
    _, _, columns = importlib.import_module("lap").lapjvr(cost)
    return np.asarray(columns, dtype=np.int64)
