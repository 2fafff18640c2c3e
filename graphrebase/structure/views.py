"""Canonical weight views: a role is read from, and written back to, whatever an exporter stored.

A view maps a constant (transposed, packed with others, a 1x1 convolution ..) to the plain array
that the alignment methods see: ``(out, in)`` matrices, ``(kv, d, D)`` projections, vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.fold import EVALUATORS
from graphrebase.graph.shapes import is_static

#: Operators by which a weight may reach its use, besides Transpose of a matrix.
_STRUCTURAL = {
    *("Cast", "Gather", "GatherND", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Rows of a table in the places that they have in another model's.

    Attributes:
        rows: indices of the rows.
        places: their indices in the other table, in the same order.
        count: rows of the other table; those without a partner are zero.
    """

    rows: np.ndarray
    places: np.ndarray
    count: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return the table as long as the other one."""
        placed = np.zeros((self.count, *array.shape[1:]), array.dtype)
        placed[self.places] = array[self.rows]
        return placed


@dataclass(frozen=True, slots=True)
class View:
    """Where a role lives in a model.

    The constant is brought to a matrix (rows, columns), or a vector, and rows and columns are then
    picked and reshaped.

    Attributes:
        tensor: name of the constant.
        matrix: (rows, columns) of the constant in its stored order, or (n,) for a vector.
        transposed: rows and columns swap after that.
        rows: stored index of every canonical row; None for all of them in order.
        columns: the same for columns.
        flat: stored flat index of every element, for weights that are cut and turned in the
            graph; then ``matrix``, ``rows`` and ``columns`` apply to the picked array.
        shape: canonical shape.
        placement: where its rows lie in another model's table; such a view is only read.
    """

    tensor: str
    matrix: tuple[int, ...]
    transposed: bool = False
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    flat: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    placement: Placement | None = None

    @property
    def whole(self) -> bool:
        """Tell whether the view covers its constant entirely, in order."""
        return self.rows is None and self.columns is None and self.flat is None

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return the canonical array of a stored one."""
        picked = stored if self.flat is None else stored.reshape(-1)[self.flat]
        array = picked.reshape(self.matrix)
        if self.transposed:
            array = array.T
        if self.rows is not None:
            array = array[self.rows]
        if self.columns is not None:
            array = array[:, self.columns]
        if self.placement is not None:
            return self.placement.apply(array).reshape(self.shape)
        return array.reshape(self.shape)

    def write(self, stored: np.ndarray, canonical: np.ndarray) -> None:
        """Put a canonical array into a writable stored one."""
        if self.flat is not None:
            picked = stored.reshape(-1)[self.flat]
            replace(self, flat=None).write(picked, canonical)
            stored.reshape(-1)[self.flat] = picked
            return
        array = stored.reshape(self.matrix)
        if self.transposed:
            array = array.T
        counts = [
            array.shape[axis] if index is None else len(index)
            for axis, index in enumerate((self.rows, self.columns)[: array.ndim])
        ]
        values = canonical.reshape(counts)
        rows = np.arange(array.shape[0]) if self.rows is None else self.rows
        if array.ndim == 1:
            array[rows] = values
        else:
            columns = np.arange(array.shape[1]) if self.columns is None else self.columns
            array[np.ix_(rows, columns)] = values

    def picked(self, rows: np.ndarray | None, columns: np.ndarray | None = None) -> View:
        """Return only the given rows and columns of this view, in that order."""
        return replace(
            self, rows=_composed(self.rows, rows), columns=_composed(self.columns, columns)
        )

    def turned(self) -> View:
        """Return the transpose of this view of a matrix."""
        return replace(
            self,
            transposed=not self.transposed,
            rows=self.columns,
            columns=self.rows,
            shape=self.shape[::-1],
        )

    def placed_at(self, placement: Placement) -> View:
        """Return this view of a table, or of a vector, with its rows in other places."""
        return replace(self, shape=(placement.count, *self.shape[1:]), placement=placement)

    def shaped(self, shape: Sequence[int]) -> View:
        """Return this view with another canonical shape."""
        return replace(self, shape=tuple(shape))


def _composed(first: np.ndarray | None, then: np.ndarray | None) -> np.ndarray | None:
    if first is None or then is None:
        return first if then is None else then
    return np.asarray(first[then])


def constant_view(graph: Graph, shapes: ShapeTable, value: str) -> View | None:
    """Return the view of a value that is a constant, or a constant cut or turned in the graph."""
    if value in graph.constants:
        shape = graph.constants[value].shape
        return _direct(value, shape) if len(shape) <= 2 else _flattened(value, shape)
    node = graph.producers.get(value)
    if node is None or node.op_type not in _STRUCTURAL:
        return None
    source = constant_view(graph, shapes, node.inputs[0])
    if source is None:
        return None
    if node.op_type == "Cast":
        return source
    if node.op_type == "Transpose" and source.flat is None and len(source.shape) == 2:
        return source.turned()
    if not _is_static_move(shapes, node, value):
        return None
    return _cut(shapes, node, value, source) or _indexed(graph, shapes, node, value, source)


def _direct(name: str, shape: tuple[int, ...]) -> View:
    return View(name, shape or (1,), shape=shape)


def _flattened(name: str, shape: tuple[int, ...]) -> View:
    return View(name, (shape[0], int(np.prod(shape[1:]))), shape=shape)


def _is_static_move(shapes: ShapeTable, node: Node, value: str) -> bool:
    """Tell, before any index is made, whether a structural node moves elements to known places."""
    shape = shapes.shape(value)
    known = all(shapes.static_value(name) is not None for name in node.inputs[1:] if name)
    return known and shape is not None and all(is_static(d) for d in shape)


def _cut(shapes: ShapeTable, node: Node, value: str, source: View) -> View | None:
    """Return a matrix cut along its rows or columns: an index per row, not per element."""
    if node.op_type not in ("Slice", "Split") or source.flat is not None or len(source.shape) != 2:
        return None
    lines = [np.arange(source.shape[0])[:, None], np.arange(source.shape[1])[None]]
    moved = [
        move_indices(shapes, node, value, np.broadcast_to(line, source.shape)) for line in lines
    ]
    if moved[0] is None or moved[1] is None or 0 in moved[0].shape:
        return None
    cut = source.picked(moved[0][:, 0], moved[1][0])
    return cut.shaped(moved[0].shape)


def _indexed(graph: Graph, shapes: ShapeTable, node: Node, value: str, source: View) -> View | None:
    """Return a view by the flat index of every element, moved through one structural node."""
    size = int(np.prod(graph.constants[source.tensor].shape))
    numbers = np.arange(size, dtype=np.int32 if size < 1 << 31 else np.int64)
    before = source.read(numbers.reshape(graph.constants[source.tensor].shape))
    after = move_indices(shapes, node, value, before)
    if after is None:
        return None
    if after.ndim > 2:
        after = after.reshape(after.shape[0], -1)
    return View(source.tensor, after.shape, flat=after.reshape(-1), shape=after.shape)


def move_indices(
    shapes: ShapeTable, node: Node, value: str, indices: np.ndarray
) -> np.ndarray | None:
    """Return an index array moved through a structural node, under the first shape probe."""
    evaluator: Callable[..., Sequence[np.ndarray]] | None = EVALUATORS.get(node.op_type)
    shape = shapes.shape(value)
    if shape is None:
        return None
    if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        size = [d[0] for d in shape]
        return indices.reshape(size) if indices.size == np.prod(size) else None
    if evaluator is None or node.op_type not in _STRUCTURAL:
        return None
    rest: list[np.ndarray | None] = []
    for name in node.inputs[1:]:
        pair = shapes.values.get(name)
        if name and pair is None:
            return None
        rest.append(pair[0] if pair else None)
    attributes = {**node.attributes, "_outputs": len(node.outputs)}
    results = evaluator([indices, *rest], attributes)
    return np.asarray(results[node.outputs.index(value)])
