"""Rules of look-ups: a static index selects a part, an index from the input freezes the axis."""

from __future__ import annotations

import numpy as np

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import UNIT
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule
from graphrebase.symmetry.rules.layout import cut

_REASON = "rows are looked up by index"


@rule("Gather")
def gather(context: Context) -> list[Axes]:
    """Select along one axis."""
    data, indices = list(context.axes(0)), list(context.axes(1))
    axis = context.node.attributes.get("axis", 0) % len(data)
    single = _single_index(context)
    if single is not None and is_static(data[axis].size) and data[axis].length > 1:
        length = data[axis].length
        index = single % length
        sizes = [n for n in (index, 1, length - index - 1) if n]
        chosen = cut(context, data, axis, [(n, n) for n in sizes])[1 if index else 0]
        return [[a for i, a in enumerate(chosen) if i != axis or indices]]
    if data[axis].size != UNIT:
        context.solver.freeze(data[axis], _REASON)
    return [[*data[:axis], *indices, *data[axis + 1 :]]]


def _single_index(context: Context) -> int | None:
    """Return a static index of one element, the only kind worth following."""
    value = context.shapes.static_value(context.node.inputs[1])
    return int(np.asarray(value).reshape(-1)[0]) if value is not None and value.size == 1 else None


@rule("GatherND")
def gather_nd(context: Context) -> list[Axes]:
    """Look up by index tuples; the trailing axes of the data stay."""
    data, indices = context.axes(0), context.axes(1)
    depth = context.node.attributes.get("batch_dims", 0) + indices[-1].length
    if not is_static(indices[-1].size):
        raise CannotFollow("GatherND with a dynamic index length")
    for axis in (*data[:depth], *indices):
        context.solver.freeze(axis, _REASON)
    return [[*indices[:-1], *data[depth:]]]
