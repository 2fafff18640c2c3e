"""The map of one space: an index vector, a matrix or the factors of a diagonal."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.problem import Space

IndexArray = NDArray[np.int64]
MapArray = NDArray[Any]
"""A map: int64 indices, or a float64 matrix (n_B, n_A), or float64 factors (n,) of a diagonal."""


def identity_maps(spaces: Mapping[str, Space]) -> dict[str, IndexArray]:
    """Return the map of each space that changes nothing."""
    return {
        name: np.broadcast_to(np.arange(space.size), space.map_shape).astype(np.int64)
        for name, space in spaces.items()
    }


def random_maps(
    spaces: Mapping[str, Space],
    rng: np.random.Generator,
    *,
    fixed: Container[str] = frozenset(),
    intra: str = "split",
) -> dict[str, IndexArray]:
    """Return a uniformly random element of every group; `fixed` spaces keep the identity.

    With `intra="paper"` the two inner maps of a head are one.
    """
    maps = identity_maps(spaces)
    for name in spaces:
        if name not in fixed:
            maps[name] = rng.permuted(maps[name], axis=-1)
    if intra == "paper":
        for query_key, value_output in intra_partners(spaces).items():
            if query_key not in fixed and value_output not in fixed:
                maps[value_output] = maps[query_key]
    return maps


def intra_partners(spaces: Mapping[str, Space]) -> dict[str, str]:
    """Return head_qk to head_vo space names of one block, where both exist and agree in size."""
    partners = {}
    for name, space in spaces.items():
        partner = spaces.get(name.removesuffix("head_qk") + "head_vo")
        if space.kind != "head_qk" or partner is None:
            continue
        if (partner.over, partner.map_shape) == (space.over, space.map_shape):
            partners[name] = partner.name
    return partners


def is_matrix(found: MapArray) -> bool:
    """Return whether a map is a matrix (or the factors of a diagonal), not an index vector."""
    return found.dtype.kind == "f"


def is_linear(found: MapArray) -> bool:
    """Return whether an array may be a matrix map.

    Finite float64: (n,) without zeros, (n, n) or (k, n, n).
    """
    square = found.ndim == 1 or (found.ndim in (2, 3) and found.shape[-1] == found.shape[-2])
    if found.dtype != np.float64 or not found.size or not square:
        return False
    return bool(np.isfinite(found).all() and (found.ndim > 1 or found.all()))


def is_permutation(index: NDArray[Any]) -> bool:
    """Return whether each row of a (.., n) int64 array holds every index below n once."""
    if index.dtype != np.int64 or index.ndim not in (1, 2) or index.size == 0:
        return False
    return bool(np.all(np.sort(index, axis=-1) == np.arange(index.shape[-1])))


def as_matrix(found: MapArray) -> NDArray[np.float64]:
    """Return any map as matrices, float64 (.., n, n)."""
    if not is_matrix(found):
        return np.asarray(np.eye(found.shape[-1])[found])
    return np.diag(found) if found.ndim == 1 else found


def inverse_map(found: MapArray) -> MapArray:
    """Return the map that undoes a map."""
    if not is_matrix(found):
        return np.argsort(found, axis=-1).astype(np.int64)
    return 1.0 / found if found.ndim == 1 else np.asarray(np.linalg.inv(found))


def stays(found: MapArray) -> NDArray[np.bool_]:
    """Tell of every index whether a map leaves it in place."""
    if not is_matrix(found):
        return np.asarray(found == np.arange(found.shape[-1]))
    if found.ndim == 1:
        return np.asarray(found == 1.0)
    return np.asarray(np.abs(found - np.eye(*found.shape[-2:])).max(axis=-1) < 1e-9)
