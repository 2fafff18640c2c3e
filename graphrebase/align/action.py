"""How an alignment acts on an array: its axes are reordered, or multiplied by matrices."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.alignment import Alignment
from graphrebase.align.maps import IndexArray, MapArray, is_matrix
from graphrebase.align.problem import Axes, Space
from graphrebase.errors import MismatchError


def transport(
    array: NDArray[Any],
    axes: Axes,
    alignment: Alignment,
    spaces: Mapping[str, Space],
    *,
    dual: Container[int] = (),
) -> NDArray[Any]:
    """Move an array of A, in canonical shape, to B's basis.

    Args:
        array: any dtype, one axis per entry of `axes`.
        axes: space name per axis, None for axes that stay.
        alignment: the maps.
        spaces: the problem's spaces.
        dual: positions of axes that transform by T^-T (the input side of a weight); the same as
            T for permutations and rotations, also between different widths.

    Returns:
        A new array; for a query projection out[j, m, r, :] is
        array[head[j], member[j, m], qk[j, r], :].

    Raises:
        MismatchError: a space is unknown or has no map, or the array does not fit.
    """
    if array.ndim != len(axes):
        raise MismatchError(f"array of shape {array.shape} has not the axes {axes}")
    for length, axis in zip(array.shape, axes, strict=True):
        if axis is None:
            continue
        if axis not in spaces or axis not in alignment.maps:
            raise MismatchError("the alignment has no map for this space", where=axis)
        if length != _old_size(alignment.maps[axis], spaces[axis]):
            raise MismatchError(f"axis of length {length} in a space of another size", where=axis)
    linear = [p for p, a in enumerate(axes) if a is not None and is_matrix(alignment.maps[a])]
    moved: NDArray[Any] = permute_axes(array, axes, alignment.maps, spaces, np, skip=linear)
    for position in linear:
        space = spaces[axes[position] or ""]
        head = None if space.over is None else axes.index(space.over)
        moved = _multiply(moved, position, head, alignment.maps[space.name], position in dual)
    return moved


def _old_size(found: MapArray, space: Space) -> int:
    """Return the length of an axis of A that a map moves: that of B's, unless it is rectangular."""
    return found.shape[-1] if is_matrix(found) and found.ndim > 1 else space.size


def _multiply(
    array: NDArray[Any], position: int, head: int | None, matrix: MapArray, dual: bool
) -> NDArray[Any]:
    """Multiply one axis by a matrix (per index of the head axis), or by its inverse transpose."""
    if matrix.ndim == 1:
        factors = 1.0 / matrix if dual else matrix
        shape = [-1 if p == position else 1 for p in range(array.ndim)]
        return np.asarray(array * factors.reshape(shape))
    if dual:
        square = matrix.shape[-1] == matrix.shape[-2]
        matrix = (np.linalg.inv(matrix) if square else np.linalg.pinv(matrix)).swapaxes(-1, -2)
    if head is None:
        product = np.tensordot(matrix, array, axes=(-1, position))
        return np.asarray(np.moveaxis(product, 0, position))
    front = np.moveaxis(array, (head, position), (0, 1))
    moved = matrix @ front.reshape(*front.shape[:2], -1)
    return np.asarray(np.moveaxis(moved.reshape(front.shape), (0, 1), (head, position)))


def permute_axes(
    array: Any,
    axes: Axes,
    maps: Mapping[str, IndexArray],
    spaces: Mapping[str, Space],
    xp: Any,
    *,
    skip: Container[int] = (),
) -> Any:
    """Apply the maps along every axis but those in `skip` (positions); xp is numpy or cupy.

    Heads move first: the inner maps are indexed by B's heads.
    """
    positions = [p for p, axis in enumerate(axes) if axis is not None and p not in skip]
    positions.sort(key=lambda p: spaces[axes[p] or ""].over is not None)
    for position in positions:
        space = spaces[axes[position] or ""]
        index = xp.asarray(maps[space.name])
        if space.over is None:
            array = xp.take(array, index, axis=position)
            continue
        head = axes.index(space.over)
        shape = [1] * array.ndim
        shape[head], shape[position] = space.count, space.size
        index = (index if head < position else index.T).reshape(shape)
        array = xp.take_along_axis(array, index, axis=position)
    return array
