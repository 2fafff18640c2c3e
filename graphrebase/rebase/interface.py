"""What a change of basis does to a model's inputs and outputs, when those are free to move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry import Symmetry, index_vector, leaves, permute_array
from graphrebase.symmetry.axes import Axis, Fibre

Permutations = Mapping[Axis, np.ndarray]
Relabel = Callable[[np.ndarray], np.ndarray]
Entry = dict[str, Any]


def moved_inputs(symmetry: Symmetry, permutations: Permutations) -> dict[str, Relabel]:
    """Return, per permuted graph input, the function from the old model's array to the new's."""
    names = {name: name for name in symmetry.graph.inputs}
    return _relabels(symmetry, permutations, names)


def moved_outputs(symmetry: Symmetry, permutations: Permutations) -> dict[str, Relabel]:
    """Return, per permuted graph output, the function from the old model's array to the new's."""
    return _relabels(symmetry, permutations, symmetry.graph.outputs)


def describe(symmetry: Symmetry, permutations: Permutations) -> dict[str, list[Entry]]:
    """Return, per permuted input and output, what happened to its axes, in this order.

    An entry {axis, permutation} reads ``new = np.take(old, permutation, axis)``. With ``over``, a
    permutation is given for every index of that axis (in its new order), because each head has
    one of its own. With ``factor``, it is the factor of that number of a merged axis that moves.
    """
    values = {**{n: n for n in symmetry.graph.inputs}, **symmetry.graph.outputs}
    found = {}
    for name, value in values.items():
        entries = list(_entries(symmetry, permutations, symmetry.values.get(value, ())))
        if entries:
            found[name] = entries
    return found


def _relabels(
    symmetry: Symmetry, permutations: Permutations, names: Mapping[str, str]
) -> dict[str, Relabel]:
    found: dict[str, Relabel] = {}
    for name, value in names.items():
        axes = symmetry.values.get(value, [])
        if any(x in permutations for axis in axes for x in leaves(axis)):
            found[name] = partial(
                permute_array, axes=axes, permutations=permutations, solver=symmetry.solver
            )
    return found


def _entries(
    symmetry: Symmetry, permutations: Permutations, axes: Sequence[Axis]
) -> Iterable[Entry]:
    solver = symmetry.solver
    moved = [i for i, a in enumerate(axes) if any(x in permutations for x in leaves(a))]
    dependent = [i for i in moved if _over(symmetry, axes, i) is not None]
    for i in (*(i for i in moved if i not in dependent), *dependent):
        place = _over(symmetry, axes, i)
        if place is not None:
            yield {"axis": i, "over": place, **_dependent(symmetry, permutations, axes, i, place)}
        elif is_static(axes[i].size):
            vector = index_vector(axes[i], permutations, solver)
            yield {"axis": i, "permutation": vector.tolist()}
        else:
            for number, factor in enumerate(solver.factors(axes[i])):
                if any(x in permutations for x in leaves(factor)):
                    vector = index_vector(factor, permutations, solver)
                    yield {"axis": i, "factor": number, "permutation": vector.tolist()}


def _over(symmetry: Symmetry, axes: Sequence[Axis], position: int) -> int | None:
    """Return the position of the axis whose index tells what an axis means, None for none."""
    for factor in symmetry.solver.factors(axes[position]):
        form = factor.form
        if isinstance(form, Fibre):
            for other, axis in enumerate(axes):
                if other != position and axis.root is form.over.root:
                    return other
    return None


def _dependent(
    symmetry: Symmetry,
    permutations: Permutations,
    axes: Sequence[Axis],
    position: int,
    place: int,
) -> Entry:
    solver = symmetry.solver
    order = index_vector(axes[place], permutations, solver)
    inside = [solver.at(axes[position], axes[place], int(i)) for i in order]
    return {"permutation": [index_vector(a, permutations, solver).tolist() for a in inside]}
