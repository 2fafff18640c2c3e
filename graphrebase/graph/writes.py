"""Writes that replace a block: ``x[..., a:b] = y``, which exporters write as ScatterND.

The index has a tuple for every element then, and each coordinate counts up along one axis of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphrebase.graph.shapes import Dim, ShapeTable, is_static
from graphrebase.graph.view import Node

#: Operators that hand one coordinate on to all places of the index tensor.
_REPEATS = {"Cast", "Expand", "Identity", "Unsqueeze"}


def written_block(
    producers: Mapping[str, Node], shapes: ShapeTable, node: Node
) -> tuple[Dim, ...] | None:
    """Return where the block that a ScatterND writes begins along the leading axes of its data.

    Args:
        producers: the node of every value that a node computes.
        shapes: shapes of the graph.
        node: the ScatterND.

    Returns:
        The first index per axis that is written by index, under both probes; None if what is
        written is no block, or is reduced with what is there.
    """
    index = shapes.shape(node.inputs[1])
    if index is None or not is_static(index[-1]):
        return None
    depth = index[-1][0]
    if len(index) != depth + 1 or node.attributes.get("reduction", "none") != "none":
        return None
    starts: list[Dim] = []
    for place in range(depth):
        found = _coordinates(producers, shapes, node, place, depth)
        if found is None:
            return None
        for values, count in zip(found, index[place], strict=True):
            if (values.size and values.min() < 0) or not _counts_along(values, place, depth, count):
                return None
        starts.append((int(found[0].min()), int(found[1].min())))
    return tuple(starts)


def _counts_along(values: np.ndarray, place: int, depth: int, count: int) -> bool:
    """Tell whether coordinates count up along one axis of the index and repeat along the others."""
    if values.ndim > depth or not values.size:
        return False
    values = values.reshape((1,) * (depth - values.ndim) + values.shape)
    line = values.reshape(-1)[:1] + np.arange(count)
    shape = [count if i == place else 1 for i in range(depth)]
    whole = np.broadcast_shapes(values.shape, shape)
    return bool((np.broadcast_to(values, whole) == line.reshape(shape)).all())


def _coordinates(
    producers: Mapping[str, Node], shapes: ShapeTable, scatter: Node, place: int, depth: int
) -> tuple[np.ndarray, ...] | None:
    """Return one coordinate of all index tuples under both probes, repeated or not."""
    known = shapes.values.get(scatter.inputs[1])
    if known is not None:
        return tuple(values[..., place] for values in known)
    # The index of a large tensor is not folded as a whole, but what it is made of is.
    node = producers.get(scatter.inputs[1])
    if node is None or node.op_type != "Concat" or len(node.inputs) != depth:
        return None
    if node.attributes["axis"] not in (-1, depth):
        return None
    name, closed = node.inputs[place], False
    while name not in shapes.values:
        maker = producers.get(name)
        if maker is None or maker.op_type not in _REPEATS:
            return None
        shape = shapes.shape(maker.inputs[0])
        if maker.op_type == "Unsqueeze":  # the axis of the tuple, the last one
            if closed or shapes.shape(name) != (*(shape or ()), (1, 1)):
                return None
            closed = True
        name = maker.inputs[0]
    return shapes.values[name] if closed else None
