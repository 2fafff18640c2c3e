"""Rules of writes: a range that is written keeps what is known of it, other rows are frozen."""

from __future__ import annotations

from collections.abc import Sequence

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static
from graphrebase.graph.writes import written_block
from graphrebase.symmetry.axes import Axis
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule
from graphrebase.symmetry.rules.layout import cut, join

_REASON = "rows are written by index"


@rule("ScatterND")
def scatter_nd(context: Context) -> list[Axes]:
    """Write rows at index tuples; the trailing axes of data and updates stay.

    ``x[..., a:b] = y`` is written so, with an index tuple for every element.
    """
    data, indices, updates = (context.axes(i) for i in range(3))
    if not is_static(indices[-1].size):
        raise CannotFollow("ScatterND with a dynamic index length")
    depth = indices[-1].length
    starts = written_block(context.producers, context.shapes, context.node)
    if starts is not None:
        return [_written(context, data, updates, starts)]
    for axis in (*data[:depth], *indices, *updates[: len(indices) - 1]):
        context.solver.freeze(axis, _REASON)
    joint = context.broadcast([data[depth:], updates[len(indices) - 1 :]])
    return [[*data[:depth], *joint]]


@rule("ScatterElements")
def scatter_elements(context: Context) -> list[Axes]:
    """Write along one axis at an index per element; the other axes meet index by index.

    Numbers that point at the axis (experts chosen by TopK) follow its order: weights of the chosen
    experts between zeros. Only a tensor that is written as a whole is followed.
    """
    data, indices, updates = (context.axes(i) for i in range(3))
    axis = context.node.attributes.get("axis", 0) % len(data)
    rest = [i for i in range(len(data)) if i != axis]
    pointer = context.pointer(1)
    if pointer is None or any(data[i].size != indices[i].size for i in rest):
        raise CannotFollow(_REASON)
    context.solver.unify(data[axis], pointer.axis)
    for index, update in zip(indices, updates, strict=True):
        context.solver.unify(index, update)
    for i in rest:
        context.solver.unify(data[i], indices[i])
    kept: list[Axis | None] = [None if i == axis else a for i, a in enumerate(data)]
    context.meet([*indices, data[axis]], [*kept, data[axis]], [*updates, None])
    return [list(data)]


def _written(context: Context, data: Axes, updates: Axes, starts: Sequence[Dim]) -> Axes:
    """Return the axes of a tensor with a block of it replaced: a concatenation along one axis."""
    wide = [i for i in range(len(starts)) if data[i].size != updates[i].size]
    if not wide:  # everything is replaced
        return context.broadcast([data, updates])
    axis, rest = wide[0], wide[1:]
    static = (starts[axis], data[axis].size, updates[axis].size)
    if rest or not all(map(is_static, static)):
        for i in wide:
            context.solver.freeze(data[i], _REASON)
            context.solver.freeze(updates[i], _REASON)
        kept = [i for i in range(len(data)) if i not in wide]
        joint = context.broadcast([[data[i] for i in kept], [updates[i] for i in kept]])
        by_place = dict(zip(kept, joint, strict=True))
        return [by_place.get(i, axis_) for i, axis_ in enumerate(data)]
    start, count = starts[axis][0], updates[axis].length
    sizes = [n for n in (start, count, data[axis].length - start - count) if n]
    parts = cut(context, data, axis, [(n, n) for n in sizes])
    parts[1 if start else 0] = updates
    return join(context, parts, axis)
