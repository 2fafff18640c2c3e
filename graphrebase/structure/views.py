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

#: Operators by which a weight may reach its use, besides Transpose of a matrix.
_STRUCTURAL = {"Transpose", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Cast"}


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
    """

    tensor: str
    matrix: tuple[int, ...]
    transposed: bool = False
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    flat: np.ndarray | None = None
    shape: tuple[int, ...] = ()

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
        """Return this whole view with only the given rows and columns, in that order."""
        return replace(self, rows=rows, columns=columns)

    def shaped(self, shape: Sequence[int]) -> View:
        """Return this view with another canonical shape."""
        return replace(self, shape=tuple(shape))


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
        return replace(source, transposed=not source.transposed, shape=source.shape[::-1])
    return _indexed(graph, shapes, node, value, source)


def _direct(name: str, shape: tuple[int, ...]) -> View:
    return View(name, shape or (1,), shape=shape)


def _flattened(name: str, shape: tuple[int, ...]) -> View:
    return View(name, (shape[0], int(np.prod(shape[1:]))), shape=shape)


def _indexed(graph: Graph, shapes: ShapeTable, node: Node, value: str, source: View) -> View | None:
    """Return a view by the flat index of every element, moved through one structural node."""
    size = int(np.prod(graph.constants[source.tensor].shape))
    before = source.read(np.arange(size).reshape(graph.constants[source.tensor].shape))
    after = move_indices(graph, shapes, node, value, before)
    if after is None:
        return None
    if after.ndim > 2:
        after = after.reshape(after.shape[0], -1)
    return View(source.tensor, after.shape, flat=after.reshape(-1), shape=after.shape)


def move_indices(
    graph: Graph, shapes: ShapeTable, node: Node, value: str, indices: np.ndarray
) -> np.ndarray | None:
    """Return an index array moved through a structural node, under the first shape probe."""
    evaluator: Callable[..., Sequence[np.ndarray]] | None = EVALUATORS.get(node.op_type)
    shape = shapes.shape(value)
    if shape is None:
        return None
    if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return indices.reshape([d[0] for d in shape])
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
