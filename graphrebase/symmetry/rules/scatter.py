"""Rules of writes: a range that is written keeps what is known of it, other rows are frozen."""

from __future__ import annotations

import numpy as np

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule
from graphrebase.symmetry.rules.layout import cut, join

_REASON = "rows are written by index"

#: Operators that hand one coordinate on to all places of the index tensor.
_REPEATS = {"Cast", "Expand", "Identity", "Unsqueeze"}


@rule("ScatterND")
def scatter_nd(context: Context) -> list[Axes]:
    """Write rows at index tuples; the trailing axes of data and updates stay.

    ``x[..., a:b] = y`` is written so, with an index tuple for every element.
    """
    data, indices, updates = (context.axes(i) for i in range(3))
    if not is_static(indices[-1].size):
        raise CannotFollow("ScatterND with a dynamic index length")
    depth = indices[-1].length
    ranges = _ranges(context, indices, depth)
    if ranges is not None and context.node.attributes.get("reduction", "none") == "none":
        return [_written(context, data, updates, ranges)]
    for axis in (*data[:depth], *indices, *updates[: len(indices) - 1]):
        context.solver.freeze(axis, _REASON)
    joint = context.broadcast([data[depth:], updates[len(indices) - 1 :]])
    return [[*data[:depth], *joint]]


def _written(context: Context, data: Axes, updates: Axes, starts: list[Dim]) -> Axes:
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


def _ranges(context: Context, indices: Axes, depth: int) -> list[Dim] | None:
    """Return where the range of every coordinate begins, None if the index is no block."""
    if len(indices) != depth + 1:
        return None
    starts: list[Dim] = []
    for place in range(depth):
        found = _coordinates(context, place, depth)
        if found is None:
            return None
        for values, count in zip(found, indices[place].size, strict=True):
            if (values.size and values.min() < 0) or not _counts_along(values, place, depth, count):
                return None
        starts.append((int(found[0].min()), int(found[1].min())))
    return starts


def _counts_along(values: np.ndarray, place: int, depth: int, count: int) -> bool:
    """Tell whether coordinates count up along one axis of the index and repeat along the others."""
    if values.ndim > depth or not values.size:
        return False
    values = values.reshape((1,) * (depth - values.ndim) + values.shape)
    line = values.reshape(-1)[:1] + np.arange(count)
    shape = [count if i == place else 1 for i in range(depth)]
    whole = np.broadcast_shapes(values.shape, shape)
    return bool((np.broadcast_to(values, whole) == line.reshape(shape)).all())


def _coordinates(context: Context, place: int, depth: int) -> tuple[np.ndarray, ...] | None:
    """Return one coordinate of all index tuples under both probes, repeated or not."""
    known = context.values(1)
    if known is not None:
        return tuple(values[..., place] for values in known)
    # The index of a large tensor is not folded as a whole, but what it is made of is.
    node = context.producers.get(context.node.inputs[1])
    if node is None or node.op_type != "Concat" or len(node.inputs) != depth:
        return None
    if node.attributes["axis"] not in (-1, depth):
        return None
    name, closed = node.inputs[place], False
    while name not in context.shapes.values:
        maker = context.producers.get(name)
        if maker is None or maker.op_type not in _REPEATS:
            return None
        shape = context.shapes.shape(maker.inputs[0])
        if maker.op_type == "Unsqueeze":  # the axis of the tuple, the last one
            if closed or context.shapes.shape(name) != (*(shape or ()), (1, 1)):
                return None
            closed = True
        name = maker.inputs[0]
    pair = context.shapes.values[name]
    return pair if closed else None
