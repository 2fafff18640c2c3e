"""Residual streams: which blocks write to one stream, and which attention reads another one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphrebase.graph import Graph
from graphrebase.structure.residual import Residual

#: Operators that hand channels on without mixing them (norms, positions, windows, masks).
_PASSES = {
    *("Add", "BatchNormalization", "Cast", "Concat", "Div", "Dropout", "Expand", "Gather"),
    *("GatherND", "InstanceNormalization", "LayerNormalization", "Mul", "Pad", "Pow"),
    *("RMSNormalization", "Reciprocal", "ReduceMean", "Reshape", "SimplifiedLayerNormalization"),
    *("Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
}


def origins(graph: Graph, value: str, ends: Collection[str] = ()) -> set[str]:
    """Return the computed values that a value is made of by operators that mix no channels.

    Args:
        graph: the graph.
        value: where to start.
        ends: values at which to stop, besides linear maps and look-ups.
    """
    found: set[str] = set()
    stack, seen = [value], {value}
    while stack:
        name = stack.pop()
        node = graph.producers.get(name)
        looked_up = (
            node is not None and graph.is_constant(node.inputs[0]) and "Gather" in node.op_type
        )
        if name in ends or node is None or node.op_type not in _PASSES or looked_up:
            found.add(name)
            continue
        fresh = [n for n in node.inputs if n and n not in seen and not graph.is_constant(n)]
        seen.update(fresh)
        stack.extend(fresh)
    return found


def find_streams(graph: Graph, residuals: Sequence[Residual | None]) -> list[int]:
    """Return the number of the stream of every block, counted in order of appearance.

    Blocks write to one stream if what passes by one of them was written by the other. The stages
    of a hierarchical model, and the two stacks of an encoder-decoder, are streams of their own.
    """
    written = {r.node.outputs[0]: i for i, r in reversed(list(enumerate(residuals))) if r}
    group = list(range(len(residuals)))
    for i, residual in enumerate(residuals):
        if residual is None:
            continue
        first = written[residual.node.outputs[0]]  # blocks in parallel share an Add
        passing = residual.node.inputs[residual.skip]
        before = (written[name] for name in origins(graph, passing, written) if name in written)
        for j in (first, *before):
            old, new = group[i], group[j]
            group = [new if number == old else number for number in group]
    return _alone_with_next(residuals, group)


def _alone_with_next(residuals: Sequence[Residual | None], group: Sequence[int]) -> list[int]:
    """Number the groups; a block without a residual counts with the block that follows it."""
    numbers: dict[int, int] = {}
    result = []
    for i in range(len(group)):
        following = (j for j in range(i, len(group)) if residuals[j] is not None)
        owner = group[next(following, i)] if residuals[i] is None else group[i]
        result.append(numbers.setdefault(owner, len(numbers)))
    return result
