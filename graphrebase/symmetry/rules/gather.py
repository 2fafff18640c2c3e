"""Rules of look-ups: a static index selects a part, an index from the input freezes the axis."""

from __future__ import annotations

import numpy as np

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import UNIT, Axis, Frozen, frozen, leaves
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule
from graphrebase.symmetry.rules.layout import cut, regroup

_REASON = "rows are looked up by index"


@rule("Gather")
def gather(context: Context) -> list[Axes]:
    """Select along one axis."""
    data, indices = list(context.axes(0)), list(context.axes(1))
    axis = context.node.attributes.get("axis", 0) % len(data)
    single = _single_index(context)
    if single is not None and is_static(data[axis].size) and data[axis].length > 1:
        chosen = _picked(context, data, axis, single)
        return [[a for i, a in enumerate(chosen) if i != axis or indices]]
    if _counts_up(context, data[axis]):
        grid = regroup(context, [data[axis]], [a.size for a in indices])
        return [[*data[:axis], *grid, *data[axis + 1 :]]]
    indices = _look_up(context, data, axis, indices)
    return [[*data[:axis], *indices, *data[axis + 1 :]]]


def _look_up(context: Context, data: Axes, axis: int, indices: Axes) -> Axes:
    """State that indices pick along an axis of the data; returns the axes they give the output.

    Numbers that point at the axis (an expert's number, from TopK) follow its order. Each expert's
    weights then have an order of their own.
    """
    looked, solver = data[axis], context.solver
    pointer = context.pointer(1)
    if pointer is None:
        if looked.size != UNIT:
            solver.freeze(looked, _REASON)
        return indices
    solver.unify(looked, pointer.axis)
    wide = [i for i, a in enumerate(indices) if a.size != UNIT]
    if len(wide) != 1 or leaves(indices[wide[0]]):
        return indices
    for i, other in enumerate(data):
        if i != axis:
            solver.spread(other, looked)
    chosen = Axis(indices[wide[0]].size, Frozen("looked up by number", looked, pointer.key))
    return [chosen if i == wide[0] else a for i, a in enumerate(indices)]


def _picked(context: Context, data: Axes, axis: int, index: int) -> Axes:
    """Return the axes of the data at one static index of an axis, which keeps the size 1."""
    length = data[axis].length
    index %= length
    sizes = [n for n in (index, 1, length - index - 1) if n]
    return cut(context, data, axis, [(n, n) for n in sizes])[1 if index else 0]


def _counts_up(context: Context, axis: Axis) -> bool:
    """Tell whether every index of an axis is taken once, in order: a Reshape in other words.

    Exporters write ``as_strided`` of a contiguous tensor so.
    """
    known = context.values(1)
    return known is not None and all(
        values.size == length and np.array_equal(values.reshape(-1), np.arange(length))
        for values, length in zip(known, axis.size, strict=True)
    )


def _single_index(context: Context) -> int | None:
    """Return a static index of one element, the only kind worth following."""
    value = context.shapes.static_value(context.node.inputs[1])
    return int(np.asarray(value).reshape(-1)[0]) if value is not None and value.size == 1 else None


@rule("GatherND")
def gather_nd(context: Context) -> list[Axes]:
    """Look up by index tuples; the trailing axes of the data stay."""
    data, indices = context.axes(0), context.axes(1)
    batch = context.node.attributes.get("batch_dims", 0)
    depth = batch + indices[-1].length
    if not is_static(indices[-1].size):
        raise CannotFollow("GatherND with a dynamic index length")
    single = _single_index(context)
    if single is not None and batch == 0 and is_static(data[0].size) and data[0].length > 1:
        return [[*indices[:-1], *_picked(context, data, 0, single)[1:]]]
    if batch == 0 and depth == 1:
        return [[*_look_up(context, data, 0, indices[:-1]), *data[1:]]]
    for axis in (*data[:depth], *indices):
        context.solver.freeze(axis, _REASON)
    return [[*indices[:-1], *data[depth:]]]


@rule("OneHot")
def one_hot(context: Context) -> list[Axes]:
    """Turn numbers into rows with a one at each; numbers that point at an axis follow its order."""
    indices, pointer = context.axes(0), context.pointer(0)
    for axis in context.axes(2):
        context.solver.freeze(axis, "off and on values")
    place = context.node.attributes.get("axis", -1) % (len(indices) + 1)
    depth = context.dims()[place]
    if pointer is None or pointer.axis.size != depth:
        axis = frozen(depth, "numbers are turned into rows")
    else:
        axis = pointer.axis
        context.scopes.append([*indices, axis])
    return [[*indices[:place], axis, *indices[place:]]]


@rule("GatherElements")
def gather_elements(context: Context) -> list[Axes]:
    """Look up along one axis by an index per element; the other axes meet index by index.

    An index tensor may be smaller than the data along any axis: it then reads a corner of it.
    """
    data, indices = context.axes(0), context.axes(1)
    axis = context.node.attributes.get("axis", 0) % len(data)
    solver = context.solver
    pointer = context.pointer(1)
    if pointer is not None:
        solver.unify(data[axis], pointer.axis)
    elif data[axis].size != UNIT:
        solver.freeze(data[axis], _REASON)
    for i, (read, index) in enumerate(zip(data, indices, strict=True)):
        if i == axis:
            continue
        if read.size == index.size:
            solver.unify(read, index)
        else:
            solver.freeze(read, "only a corner of it is looked up")
            solver.freeze(index, "only a corner of it is looked up")
    kept: list[Axis | None] = [None if i == axis else a for i, a in enumerate(data)]
    context.meet([*indices, data[axis]], [*kept, data[axis]])
    return [list(indices)]
