"""Follow channels through reshapes, transposes, splits and rotations, whatever their order.

An array of channel numbers is sent through the very nodes of the graph, so every packing of q, k
and v that an exporter writes is read the same way, without a template for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.shapes import is_static
from graphrebase.graph.writes import written_block
from graphrebase.structure.linear import Linear
from graphrebase.structure.views import move_indices

STRUCTURAL = {
    *(
        "Expand",
        "Flatten",
        "Gather",
        "GatherND",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
    ),
    "Unsqueeze",
}
_POINTWISE = {
    *("Add", "Cast", "Clip", "Div", "Dropout", "Identity", "LayerNormalization", "Mul", "Neg"),
    *("RMSNormalization", "RotaryEmbedding", "Sub", "Where"),
}

#: Operators of which only the first operand carries the channels on.
_FIRST = {"Div", "LayerNormalization", "RMSNormalization", "RotaryEmbedding", "Clip"}

#: Operators that sum up positions.
_REDUCTIONS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}

#: Longest chain of nodes followed.
LIMIT = 40

#: Operators between a cache that is given and attention, besides structural ones.
_GIVEN = {"Cast", "Concat", "Div", "Mul"}

#: Channel number of a position that comes from somewhere else (a cache, padding).
ELSEWHERE = -1


@dataclass(frozen=True, slots=True)
class Traced:
    """Where the entries of a value come from.

    Attributes:
        linear: the linear map.
        table: its output channel at every position of the value, under the first shape probe.
        steps: number of nodes on the shortest way.
    """

    linear: Linear
    table: np.ndarray
    steps: int


@dataclass(slots=True)
class Tracer:
    """Follows values back to linear maps.

    Where several operands lead back (x * cos + rotate(x) * sin), the shortest way is taken, which
    for rotary embeddings is the one that does not rotate.
    """

    graph: Graph
    shapes: ShapeTable
    linears: Mapping[str, Linear]
    _known: dict[str, Traced | None] = field(default_factory=dict)

    def trace(self, value: str, depth: int = 0) -> Traced | None:
        """Return where a value comes from, or None."""
        if value in self._known:
            return self._known[value]
        found = None
        if value in self.linears:
            linear = self.linears[value]
            numbers = channels(self.shapes, value, linear.gives, linear.out_width)
            found = None if numbers is None else Traced(linear, numbers, 0)
        elif depth < LIMIT and value in self.graph.producers and value not in self.shapes.values:
            found = self._through(self.graph.producers[value], value, depth + 1)
        self._known[value] = found
        return found

    def _through(self, node: Node, value: str, depth: int) -> Traced | None:
        if node.op_type == "Concat":
            return self._joined(node, value, depth)
        if node.op_type == "ScatterND":
            return self._written(node, value, depth)
        if node.op_type in _REDUCTIONS:
            return self._reduced(node, value, depth)
        if node.op_type in STRUCTURAL:
            moved = self.trace(node.inputs[0], depth)
            if moved is None:
                return None
            step = (node, node.inputs[0], value)
            table = send(self.shapes, moved.table, [step])
            return None if table is None else _after(moved, table)
        if node.op_type not in _POINTWISE:
            return None
        names = node.inputs[1:3] if node.op_type == "Where" else node.inputs[:2]
        sources = [self.trace(name, depth) for name in names[: 1 if node.op_type in _FIRST else 2]]
        shape = self._size(value)
        fitting = [s for s in sources if s and shape and _broadcasts(s.table.shape, shape)]
        if not fitting or shape is None:
            return None
        source = min(fitting, key=lambda s: s.steps)
        return _after(source, np.broadcast_to(source.table, shape))

    def _joined(self, node: Node, value: str, depth: int) -> Traced | None:
        """Join parts of one linear map (partial rotary) and what comes from elsewhere (a cache).

        Inside a head, parts of another linear map come from elsewhere too: a key of DeepSeek-V2 is
        one part per head and one that turns with the position, which all heads share.
        """
        found = self._parts(node.inputs, depth)
        if found is None:
            return None
        main, tables = found
        inside = node.attributes["axis"] in (-1, main.table.ndim - 1)
        sources = [self.trace(name, depth) for name in node.inputs]
        if not inside and any(s and s.linear is not main.linear for s in sources):
            return None
        try:
            joined = np.concatenate(tables, node.attributes["axis"])
        except ValueError:  # declared sizes that do not fit together
            return None
        return self._made(main, joined, value)

    def _written(self, node: Node, value: str, depth: int) -> Traced | None:
        """Put a block in the place of what was there (``key[..., :n] = own``)."""
        starts = written_block(self.graph.producers, self.shapes, node)
        found = self._parts([node.inputs[0], node.inputs[2]], depth)
        if starts is None or found is None:
            return None
        main, (table, block) = found
        table = table.copy()
        places = [start[0] for start in starts]
        table[tuple(slice(a, a + n) for a, n in zip(places, block.shape, strict=False))] = block
        return self._made(main, table, value)

    def _reduced(self, node: Node, value: str, depth: int) -> Traced | None:
        """Drop positions that all have the same channels (Hiera pools its queries)."""
        source, shape = self.trace(node.inputs[0], depth), self._size(value)
        given = self.shapes.values.get(node.input(1))
        axes = given[0] if given is not None else node.attributes.get("axes")
        if source is None or shape is None or axes is None:
            return None
        place = tuple(int(axis) % source.table.ndim for axis in np.ravel(axes))
        table = source.table.min(axis=place, keepdims=True)
        if (table != source.table).any() or table.size != np.prod(shape):
            return None
        return self._made(source, table.reshape(shape), value)

    def _parts(self, names: Sequence[str], depth: int) -> tuple[Traced, list[np.ndarray]] | None:
        """Return the source that brings most channels, and the table of its channels per operand.

        Everything else comes from elsewhere.
        """
        sources = [self.trace(name, depth) for name in names]
        sizes = [self._size(name) for name in names]
        traced = [s for s in sources if s is not None]
        if not traced or None in sizes:
            return None
        main = max(traced, key=lambda s: np.unique(s.table).size)
        tables = [
            s.table if s is not None and s.linear is main.linear else np.full(n or (), ELSEWHERE)
            for s, n in zip(sources, sizes, strict=True)
        ]
        return Traced(main.linear, main.table, max(s.steps for s in traced)), tables

    def _made(self, main: Traced, table: np.ndarray, value: str) -> Traced | None:
        return _after(main, table) if table.shape == self._size(value) else None

    def _size(self, value: str) -> tuple[int, ...] | None:
        shape = self.shapes.shape(value)
        return None if shape is None else tuple(d[0] for d in shape)


def _after(source: Traced, table: np.ndarray) -> Traced:
    return Traced(source.linear, table, source.steps + 1)


def send(
    shapes: ShapeTable,
    indices: np.ndarray,
    steps: Sequence[tuple[Node, str, str]],
) -> np.ndarray | None:
    """Return an index array after the steps, under the first shape probe; None if it gets lost."""
    for node, source, given in steps:
        shape = shapes.shape(given)
        if shape is None:
            return None
        size = tuple(d[0] for d in shape)
        if node.op_type == "Concat":
            widened = _among_others(node, shapes, source, indices)
            if widened is None or widened.shape != size:
                return None
            indices = widened
        elif node.op_type in STRUCTURAL - {"Expand", "Tile"}:
            moved = move_indices(shapes, node, given, indices)
            if moved is None:
                return None
            indices = moved
        elif node.op_type == "Tile" and indices.ndim == len(size):
            indices = np.tile(indices, [n // m for n, m in zip(size, indices.shape, strict=True)])
        elif not _broadcasts(indices.shape, size):
            return None
        else:
            indices = np.broadcast_to(indices, size)
    return indices


def _among_others(
    node: Node, shapes: ShapeTable, source: str, indices: np.ndarray
) -> np.ndarray | None:
    """Return an index array after a Concat; what the other operands bring comes from elsewhere."""
    given = [shapes.shape(name) for name in node.inputs]
    parts = [
        indices if name == source else np.full([d[0] for d in shape or ()], ELSEWHERE)
        for name, shape in zip(node.inputs, given, strict=True)
    ]
    if None in given or node.inputs.count(source) != 1:
        return None
    try:
        return np.concatenate(parts, node.attributes["axis"])
    except ValueError:  # declared sizes that do not fit together
        return None


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    pairs = zip(shape[::-1], target[::-1], strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


def channels(
    shapes: ShapeTable, value: str, axes: tuple[int, ...] = (-1,), width: int = 0
) -> np.ndarray | None:
    """Return the channel number at every position of a value, broadcast.

    Args:
        shapes: shapes of the graph.
        value: the value.
        axes: its axes that number channels, row-major; the last one for most linear maps, or the
            last few where these make up ``width`` together (before a bias is added).
        width: number of channels.
    """
    shape = shapes.shape(value)
    if shape is None:
        return None
    size = [d[0] for d in shape]
    if axes == (-1,):
        count = next((n for n in range(1, len(size)) if np.prod(size[-n:]) == width), 1)
        axes = tuple(range(-count, 0))
    chosen = [axis % len(size) for axis in axes]
    grid = np.arange(math.prod(size[i] for i in chosen)).reshape([size[i] for i in chosen])
    form = [size[i] if i in chosen else 1 for i in range(len(size))]
    return np.broadcast_to(grid.transpose(np.argsort(chosen)).reshape(form), size)


def channel_line(table: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Return the entries of a table along channel axes, row-major, at the first position."""
    chosen = [axis % table.ndim for axis in axes]
    rest = [i for i in range(table.ndim) if i not in chosen]
    width = math.prod(table.shape[i] for i in chosen)
    line: np.ndarray = table.transpose([*rest, *chosen]).reshape(-1, width)[0]
    return line


def given_numbers(graph: Graph, shapes: ShapeTable, value: str) -> np.ndarray | None:
    """Return numbers of the entries that an operand takes from a graph input, None if it does not.

    Every index of the input's static axes (heads and head_dim of a cache) has a number.
    """
    steps: list[tuple[Node, str, str]] = []
    name = value
    while name not in graph.inputs:
        node = graph.producers.get(name)
        if node is None or node.op_type not in STRUCTURAL | _GIVEN:
            return None
        # transformers joins a first cache with an empty constant.
        computed = [n for n in node.inputs if n not in shapes.values and not graph.is_constant(n)]
        if len(computed) != 1:
            return None
        steps.insert(0, (node, computed[0], name))
        name = computed[0]
    shape = shapes.shape(name)
    if shape is None:
        return None
    form = [d[0] if is_static(d) else 1 for d in shape]
    numbers = np.arange(int(np.prod(form))).reshape(form)
    return send(shapes, np.broadcast_to(numbers, [d[0] for d in shape]), steps)


def distinct_rows(table: np.ndarray) -> np.ndarray:
    """Return the rows of a table, each once, in order of first appearance."""
    _, first = np.unique(table, axis=0, return_index=True)
    return table[np.sort(first)]
