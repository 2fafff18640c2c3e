"""Static shapes, by inferring every shape twice with different sizes for the dynamic dimensions.

A dimension is a pair: its size under the first and under the second probe. It is static exactly
where both agree, and pairs keep products apart that a single probe would confuse. Shape arithmetic
that the exporter left in the graph (Shape, Gather, Concat, Range ..) is folded under each probe,
so computed Reshape targets and Slice bounds are known, and known to be static or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.graph.contributed import Typed
from graphrebase.graph.probe import Probe
from graphrebase.graph.probe_sizes import (
    MOST_DOUBLINGS,
    Dim,
    doubled,
    input_dims,
    shared,
    short_inputs,
    without_baked,
)
from graphrebase.graph.view import Graph

__all__ = ["Dim", "ShapeTable", "infer_shapes", "is_static"]


#: Dynamic sizes that an exporter may have taken for constants (two sequences).
_MOST_BAKED = 3


@dataclass(frozen=True, slots=True)
class ShapeTable:
    """Shapes and folded values of every tensor of a graph.

    Attributes:
        shapes: dimensions as (first probe, second probe); a value without entry is unknown.
        values: folded small arrays under both probes.
    """

    shapes: Mapping[str, tuple[Dim, ...]]
    values: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Return the dimensions of a value, or None where inference failed."""
        return self.shapes.get(name)

    def static_value(self, name: str) -> np.ndarray | None:
        """Return a folded array that does not depend on the dynamic dimensions, else None."""
        pair = self.values.get(name)
        if pair is None or not np.array_equal(pair[0], pair[1]):
            return None
        return pair[0]


def is_static(dim: Dim) -> bool:
    """Tell whether a dimension has one size under both probes."""
    return dim[0] == dim[1]


def infer_shapes(graph: Graph) -> ShapeTable:
    """Return the shapes and folded values of all tensors of ``graph``.

    Where the declared sizes do not fit together (some exporters name every dynamic size apart),
    the sizes that most models share are tried; a size that is declared but was taken for a constant
    is that constant.
    """
    declared = input_dims(graph)
    table = _inferred(graph, declared)
    for _ in range(_MOST_BAKED):
        real = without_baked(graph, table.shapes, table.values, declared)
        if real == declared:
            break
        declared, table = real, _inferred(graph, real)
    gaps, common = _gaps(graph, table), shared(declared)
    if not gaps or common == declared:
        return table
    other = _inferred(graph, common)
    return other if _gaps(graph, other) < gaps else table


def _gaps(graph: Graph, table: ShapeTable) -> int:
    """Return how many values of a graph have no known shape."""
    names = (name for node in graph.nodes for name in node.outputs if name)
    return sum(name not in table.shapes for name in names)


def _inferred(graph: Graph, dims: Mapping[str, tuple[Dim, ...]]) -> ShapeTable:
    """Return the shapes of a graph whose inputs have these sizes, or multiples of them."""
    _, first, second = _long_enough(graph, dims)
    shapes = {
        name: tuple(zip(shape, second.types[name][1], strict=True))
        for name, (_, shape) in first.types.items()
        if name in second.types and len(shape) == len(second.types[name][1])
    }
    values = {n: (v, second.values[n]) for n, v in first.values.items() if n in second.values}
    return ShapeTable(shapes, values)


def long_enough(graph: Graph, dims: Mapping[str, tuple[Dim, ...]]) -> Mapping[str, tuple[Dim, ...]]:
    """Return input sizes, doubled until convolutions leave something of them."""
    return _long_enough(graph, dims)[0]


def _long_enough(
    graph: Graph, dims: Mapping[str, tuple[Dim, ...]]
) -> tuple[Mapping[str, tuple[Dim, ...]], Probe, Probe]:
    cache: dict[object, list[Typed | None]] = {}
    for doublings in range(MOST_DOUBLINGS):
        first, second = (_probed(graph, which, cache, dims) for which in (0, 1))
        sizes = [{n: shape for n, (_, shape) in probe.types.items()} for probe in (first, second)]
        short = short_inputs(graph, *sizes)
        if not short or doublings == MOST_DOUBLINGS - 1:
            break
        dims = doubled(dims, short)
    return dims, first, second


def _probed(
    graph: Graph,
    which: int,
    cache: dict[object, list[Typed | None]],
    dims: Mapping[str, tuple[Dim, ...]],
) -> Probe:
    probe = Probe.start(graph, which, cache, dims)
    for node in graph.nodes:
        probe.visit(node)
    return probe
