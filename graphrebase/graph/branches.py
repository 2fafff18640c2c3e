"""What of a graph is part of its function: branches that are taken, calls that outputs need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphrebase.graph.shapes import infer_shapes
from graphrebase.graph.view import Graph, Node, is_merge
from graphrebase.io import branch_scope


def live(graph: Graph) -> Graph:
    """Return the graph without the branches that are never taken.

    Exporters leave an If where a size decides (a Squeeze of an axis that may have size 1). Where
    the condition is the same at all sizes, the other branch is no part of the function.
    """
    while any(is_merge(node) for node in graph.nodes):
        shapes = infer_shapes(graph)
        taken: dict[str, bool] = {}
        for node in filter(is_merge, graph.nodes):
            condition = shapes.static_value(node.inputs[0])
            if condition is not None and condition.size == 1:
                taken[node.outputs[0]] = bool(condition.reshape(-1)[0])
        if not taken:
            break
        graph = _along(graph, taken)
        ordered = (replace(node, index=i) for i, node in enumerate(graph.nodes))
        graph = replace(graph, nodes=tuple(ordered))
    return graph


def needed(graph: Graph) -> Graph:
    """Return the graph without calls that no output depends on, which exporters leave behind."""
    wanted = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs, node.captured)
            kept.append(node)
    if len(kept) == len(graph.nodes):
        return graph
    ordered = (replace(node, index=i) for i, node in enumerate(reversed(kept)))
    return replace(graph, nodes=tuple(ordered))


def paths(graph: Graph) -> list[Graph]:
    """Return the graph along one branch of every If, the one to look at first.

    A decoder merged for use with and without a cache has the same layers in both branches. They
    are one set of layers, so of two branches that read the same weights one is enough; where one
    reads more, it is the one. Both stay where each has weights of its own. The second path, if
    there is one, takes the other branch of the same Ifs. Nodes keep their index in ``graph``.
    """
    first: dict[str, bool] = {}
    for node in filter(is_merge, graph.nodes):
        choice = _richer(graph, node)
        if choice is not None:
            first[node.outputs[0]] = choice
    if not first:
        return [graph]
    return [_along(graph, first), _along(graph, {name: not way for name, way in first.items()})]


def _richer(graph: Graph, merge: Node) -> bool | None:
    """Return the branch that reads all weights which the other reads; None where neither does."""
    inside = {way: _nodes_inside(graph, merge, way) for way in (True, False)}
    read = {way: {name for node in inside[way] for name in _weights(graph, node)} for way in inside}
    if read[True] == read[False]:
        return len(inside[True]) < len(inside[False])
    if read[True] <= read[False]:
        return False
    return True if read[False] <= read[True] else None


def _nodes_inside(graph: Graph, merge: Node, way: bool) -> list[Node]:
    scope = _scope(merge.outputs[0], way)
    return [node for node in graph.nodes if node.scope.startswith(scope)]


def _scope(output: str, way: bool) -> str:
    return branch_scope("", output, "then_branch" if way else "else_branch")


def _weights(graph: Graph, node: Node) -> list[str]:
    constants = graph.constants
    return [n for n in node.inputs if n in constants and len(constants[n].shape) > 1]


def _along(graph: Graph, taken: Mapping[str, bool]) -> Graph:
    """Return the graph with some merges, by their first output, replaced by one of their ways."""
    merged = {(output,) for output in taken}
    aliases: dict[str, str] = {}
    dead: list[str] = []
    for node in filter(is_merge, graph.nodes):
        way = taken.get(node.outputs[0])
        if way is None:
            continue
        count = len(node.outputs)
        start = 1 if way else 1 + count
        aliases |= dict(zip(node.outputs, node.inputs[start : start + count], strict=True))
        dead.append(_scope(node.outputs[0], not way))

    def real(name: str) -> str:
        while name in aliases:
            name = aliases[name]
        return name

    kept = [
        node
        for node in graph.nodes
        if node.outputs[:1] not in merged and not any(node.scope.startswith(d) for d in dead)
    ]
    renamed = (
        replace(
            node,
            inputs=tuple(map(real, node.inputs)),
            captured=tuple(map(real, node.captured)),
        )
        if any(name in aliases for name in (*node.inputs, *node.captured))
        else node
        for node in kept
    )
    outputs = {name: real(value) for name, value in graph.outputs.items()}
    return replace(graph, nodes=tuple(renamed), outputs=outputs)
