"""Follow channels through reshapes, transposes, splits and rotations, whatever their order.

An array of channel numbers is sent through the very nodes of the graph, so every packing of q, k
and v that an exporter writes is read the same way, without a template for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.structure.linear import Linear
from graphrebase.structure.views import move_indices

_STRUCTURAL = {
    *("Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
    "Unsqueeze",
}
_POINTWISE = {
    *("Add", "Cast", "Clip", "Div", "Dropout", "Identity", "LayerNormalization", "Mul", "Neg"),
    *("RMSNormalization", "RotaryEmbedding", "Sub", "Where", "Concat"),
}

#: Longest chain of nodes followed.
_LIMIT = 40


def source_of(
    graph: Graph, shapes: ShapeTable, value: str, linears: Mapping[str, Linear]
) -> tuple[Linear, list[tuple[Node, str, str]]] | None:
    """Return the nearest linear map a value comes from and the steps from it to the value.

    A step is (node, value it reads, value it gives). The shortest way is taken, which for rotary
    embeddings is the one that does not rotate.
    """
    queue: list[tuple[str, list[tuple[Node, str, str]]]] = [(value, [])]
    seen = {value}
    while queue:
        name, steps = queue.pop(0)
        if name in linears:
            return linears[name], steps
        node = graph.producers.get(name)
        if node is None or len(steps) > _LIMIT:
            continue
        if node.op_type not in _STRUCTURAL and node.op_type not in _POINTWISE:
            continue
        for source in node.inputs[:2] if node.op_type != "Where" else node.inputs[1:3]:
            if source and source not in seen and not graph.is_constant(source):
                seen.add(source)
                queue.append((source, [(node, source, name), *steps]))
    return None


def target_of(
    graph: Graph, value: str, readers: Mapping[str, Linear]
) -> tuple[Linear, list[tuple[Node, str, str]]] | None:
    """Return the nearest linear map that reads a value and the steps from the value to it."""
    queue: list[tuple[str, list[tuple[Node, str, str]]]] = [(value, [])]
    seen = {value}
    while queue:
        name, steps = queue.pop(0)
        if name in readers:
            return readers[name], steps
        if len(steps) > _LIMIT:
            continue
        for slot in graph.users(name):
            node = slot.node
            if slot.position == 0 and node.op_type in _STRUCTURAL | {"Cast", "Dropout", "Mul"}:
                given = node.outputs[0]
                if given not in seen:
                    seen.add(given)
                    queue.append((given, [*steps, (node, name, given)]))
    return None


def send(
    graph: Graph,
    shapes: ShapeTable,
    indices: np.ndarray,
    steps: Sequence[tuple[Node, str, str]],
) -> np.ndarray | None:
    """Return an index array after the steps, under the first shape probe; None if it gets lost."""
    for node, _, given in steps:
        shape = shapes.shape(given)
        if shape is None:
            return None
        size = tuple(d[0] for d in shape)
        if node.op_type in _STRUCTURAL - {"Expand", "Tile"}:
            moved = move_indices(graph, shapes, node, given, indices)
            if moved is None:
                return None
            indices = moved
        elif not _broadcasts(indices.shape, size):
            return None
        else:
            indices = np.broadcast_to(indices, size)
    return indices


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(shape[::-1], target[::-1], strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def channels(shapes: ShapeTable, value: str, axis: int = -1) -> np.ndarray | None:
    """Return the channel number at every position of a value: its last index, broadcast."""
    shape = shapes.shape(value)
    if shape is None:
        return None
    size = [d[0] for d in shape]
    line = np.arange(size[axis])
    form = [1] * len(size)
    form[axis] = size[axis]
    return np.broadcast_to(line.reshape(form), size)


def distinct_rows(table: np.ndarray) -> np.ndarray:
    """Return the rows of a table, each once, in order of first appearance."""
    _, first = np.unique(table, axis=0, return_index=True)
    return table[np.sort(first)]
