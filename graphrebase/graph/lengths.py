"""Probe sizes that convolutions leave something of: sound is read with strides of 320 samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from graphrebase.graph.view import Graph

Dim = tuple[int, int]
Shapes = Mapping[str, Sequence[int]]

#: Operators that shorten what they slide over.
_WINDOWED = {"AveragePool", "Conv", "LpPool", "MaxPool"}

#: How often an input is doubled at most.
MOST_DOUBLINGS = 12


def short_inputs(graph: Graph, first: Shapes, second: Shapes) -> Set[str]:
    """Return the inputs too short for a convolution: no position is left, or one size for both.

    Args:
        graph: the graph.
        first: shape of every value known under the first probe.
        second: the same under the second probe.
    """
    for node in graph.nodes:
        source, result = node.input(0), node.outputs[0]
        if node.op_type not in _WINDOWED or node.domain:
            continue
        if source not in first or source not in second:
            continue
        left = list(zip(first.get(result, ())[2:], second.get(result, ())[2:], strict=False))
        read = zip(first[source][2:], second[source][2:], strict=False)
        for place, (one, other) in enumerate(read):
            kept = left[place] if place < len(left) else (0, 0)
            if one != other and (min(kept) < 1 or kept[0] == kept[1]):
                return _feeding(graph, source)
    return set()


def _feeding(graph: Graph, value: str) -> Set[str]:
    """Return the graph inputs that a value is computed from."""
    stack, seen = [value], {value}
    while stack:
        node = graph.producers.get(stack.pop())
        fresh = [n for n in node.inputs if n not in seen] if node else []
        seen.update(fresh)
        stack.extend(fresh)
    return seen & set(graph.inputs)


def doubled(dims: Mapping[str, tuple[Dim, ...]], short: Set[str]) -> dict[str, tuple[Dim, ...]]:
    """Return input sizes with every dynamic size of the ``short`` inputs doubled.

    The leading size counts samples, not positions. Inputs that share a size keep sharing it.
    """
    grown = {d for name in short for d in dims[name][1:] if d[0] != d[1]}
    return {
        name: tuple((2 * d[0], 2 * d[1]) if d in grown else d for d in sizes)
        for name, sizes in dims.items()
    }
