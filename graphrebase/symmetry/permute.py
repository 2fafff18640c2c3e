"""Apply permutations of symmetry groups to arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import Axis, Fibre, Frozen, Leaf, Sum, leaves
from graphrebase.symmetry.solver import Solver

#: Index vector of each free axis: the new index i holds what was at ``vector[i]``.
Permutations = Mapping[Axis, np.ndarray]


def permute_array(
    array: np.ndarray, axes: Sequence[Axis], permutations: Permutations, solver: Solver
) -> np.ndarray:
    """Return ``array`` with every free axis permuted.

    What depends on the index of another axis is permuted inside each index first, then the index
    axis itself: the new entry (i, j) is the old (s(i), t_s(i)(j)).

    Args:
        array: the values, one dimension per axis; a dynamic axis may have any size.
        axes: axis terms of the array.
        permutations: index vector per free axis; axes without entry stay.
        solver: the solver that made the axes.
    """
    factors = [solver.factors(axis) for axis in axes]
    flat = [f for group in factors for f in group]
    if not any(True for axis in flat for _ in _moved(axis, permutations)):
        return array
    grid = array.reshape(
        [n for size, fs in zip(array.shape, factors, strict=True) for n in _sizes(size, fs)]
    )
    dependent = [i for i, f in enumerate(flat) if isinstance(f.form, Fibre)]
    # What depends on a dependent axis goes first, while that axis is still in its old order.
    for position in sorted(dependent, key=lambda i: -_depth(flat[i])):
        grid = _permute_fibre(grid, flat, position, permutations, solver)
    for position, axis in enumerate(flat):
        if position not in dependent and any(True for _ in _moved(axis, permutations)):
            grid = np.take(grid, index_vector(axis, permutations, solver), axis=position)
    return grid.reshape(array.shape)


def _sizes(size: int, factors: Sequence[Axis]) -> list[int]:
    """Return the sizes of an axis's factors; what is dynamic takes up what the others leave."""
    known = [f.length if is_static(f.size) else 0 for f in factors]
    rest = size // max(math.prod(n for n in known if n), 1)
    dynamic = [i for i, n in enumerate(known) if not n]
    for i in dynamic:
        known[i] = rest if i == dynamic[-1] else 1
    return known


def _permute_fibre(
    grid: np.ndarray,
    flat: Sequence[Axis],
    position: int,
    permutations: Permutations,
    solver: Solver,
) -> np.ndarray:
    """Permute one dependent axis, index by index of the axes it depends on."""
    axis = flat[position]
    if not any(True for _ in _moved(axis, permutations)):
        return grid
    result = grid.copy()
    for place, member in _members(axis, flat, solver):
        index: list[slice | int] = [slice(None)] * grid.ndim
        for dimension, i in place.items():
            index[dimension] = i
        chosen = tuple(index)
        shifted = position - sum(1 for d in place if d < position)
        vector = index_vector(member, permutations, solver)
        result[chosen] = np.take(grid[chosen], vector, axis=shifted)
    return result


def _depth(axis: Axis) -> int:
    form = axis.form
    return 1 + max(_depth(m) for m in form.members) if isinstance(form, Fibre) else 0


def _members(
    axis: Axis, flat: Sequence[Axis], solver: Solver
) -> Iterator[tuple[dict[int, int], Axis]]:
    """Yield (index per dimension, inner axis) for every combination the axis depends on."""
    form = axis.form
    if not isinstance(form, Fibre):
        yield {}, axis
        return
    dimension = next(
        i for i, f in enumerate(flat) if f.root is form.over.root and not isinstance(f.form, Fibre)
    )
    for i, member in enumerate(form.members):
        inner = [solver.at(f, form.over, i) for f in flat]
        for place, deeper in _members(member, inner, solver):
            yield {dimension: i, **place}, deeper


def index_vector(axis: Axis, permutations: Permutations, solver: Solver) -> np.ndarray:
    """Return the index vector of an axis that depends on no other axis, shape (length,)."""
    form = axis.form
    if isinstance(form, Leaf):
        found = permutations.get(axis.root)
        return np.arange(axis.length) if found is None else found
    if isinstance(form, Sum):
        vectors, start = [], 0
        for part in form.parts:
            vectors.append(index_vector(part, permutations, solver) + start)
            start += part.length
        return np.concatenate(vectors)
    if isinstance(form, Frozen):
        return np.arange(axis.length)
    flat = solver.factors(axis)
    if any(f.root is axis.root for f in flat):
        raise ValueError("this axis depends on another one")
    grid = np.arange(axis.length).reshape([f.length for f in flat])
    return permute_array(grid, flat, permutations, solver).reshape(-1)


def _moved(axis: Axis, permutations: Permutations) -> Iterator[Axis]:
    return (x for x in leaves(axis) if x in permutations)


def random_permutations(leaf_axes: Sequence[Axis], seed: int) -> dict[Axis, np.ndarray]:
    """Return a random index vector for each free axis; never the identity where size allows."""
    rng = np.random.default_rng(seed)
    drawn: dict[Axis, np.ndarray] = {}
    for axis in leaf_axes:
        vector = rng.permutation(axis.length)
        while axis.length > 1 and np.array_equal(vector, np.arange(axis.length)):
            vector = rng.permutation(axis.length)
        drawn[axis.root] = vector
    return drawn
