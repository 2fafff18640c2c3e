"""Interface axes: what inputs, outputs and caches allow of the axes that reach them."""

from __future__ import annotations

from collections.abc import Sequence, Set

from graphrebase.graph import Dim
from graphrebase.graph.quantized import scale_constants
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    Leaf,
    fibre,
    frozen,
    leaf,
    leaves,
)
from graphrebase.symmetry.registry import Axes
from graphrebase.symmetry.state import State

#: One axis of a graph output: (output name, axis).
OutputAxis = tuple[str, int]


def name_inputs(state: State) -> None:
    """Freeze the axes of graph inputs; those of a cache are free where that is asked for."""
    for name in state.graph.inputs:
        dims = state.shapes.shape(name) or ()
        is_cache = name in state.cache.inputs
        reason = f"{'cache' if is_cache else 'input'} '{name}'"
        if is_cache and "state" in state.free:
            state.values[name] = _cache_axes(dims, reason)
        else:
            state.values[name] = [frozen(d, reason) for d in dims]


def _cache_axes(dims: Sequence[Dim], reason: str) -> Axes:
    """Return the axes of past keys or values: heads, and an inner axis of their own for each."""
    axes = [leaf(d[0]) if is_static(d) and d[0] > 1 else frozen(d, reason) for d in dims]
    inside = [i for i, axis in enumerate(axes) if isinstance(axis.form, Leaf)]
    if len(inside) == 2:
        head, inner = (axes[i] for i in inside)
        axes[inside[1]] = fibre(head, [leaf(inner.length) for _ in range(head.length)])
    return axes


def pair_cache(state: State) -> None:
    """Tie past and present: what a step gives out, the next one takes in."""
    for past, present in state.cache.pairs:
        before = state.values.get(past, [])
        after = state.values.get(state.graph.outputs[present], [])
        if len(before) != len(after):
            for axis in (*before, *after):
                state.solver.freeze(axis, f"cache '{past}' and '{present}' differ in layout")
            continue
        for x, y in zip(before, after, strict=True):
            if x.size == y.size and is_static(x.size):
                state.solver.unify(x, y)


def fix_outputs(state: State, known: Set[OutputAxis]) -> set[OutputAxis]:
    """Freeze the interface; a hidden axis that weights read again is latent, and may be freed.

    Returns the latent output axes, whether they are free here or not.
    """
    read = _read_axes(state)
    latent = set(known)
    for name, source in state.graph.outputs.items():
        is_cache = name in state.cache.outputs
        for position, axis in enumerate(state.values.get(source, ())):
            inside = leaves(axis)
            if not is_cache and inside and all(x.root in read for x in inside):
                latent.add((name, position))
            kept_free = is_cache and "state" in state.free
            if kept_free or ("latent" in state.free and (name, position) in latent):
                continue
            state.solver.freeze(axis, f"{'cache' if is_cache else 'output'} '{name}'")
        for axis in state.constants.get(source, ()):
            state.solver.freeze(axis, f"output '{name}'")
        pointer = state.pointers.get(source)
        if pointer is not None:
            state.solver.freeze(pointer.axis, f"output '{name}' holds the number of an index")
    return latent


def _read_axes(state: State) -> set[Axis]:
    """Return the leaves that at least two matrices carry: hidden axes, not class scores.

    A bias of shape (1, classes) is a vector.
    """
    seen: dict[Axis, int] = {}
    scales = scale_constants(state.graph)
    for name, axes in state.constants.items():
        if name not in scales and sum(axis.size != UNIT for axis in axes) >= 2:
            for root in {x.root for axis in axes for x in leaves(axis)}:
                seen[root] = seen.get(root, 0) + 1
    return {root for root, count in seen.items() if count > 1}
