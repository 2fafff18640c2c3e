"""Names inside the branches of If: both may use a name, so it gets its branch as a prefix."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto


def branch_scope(outer: str, output: str, branch: str) -> str:
    """Return the prefix of the names inside a branch.

    Args:
        outer: prefix of the graph that the If stands in, ``""`` for the main graph.
        output: first output of the If.
        branch: ``then_branch`` or ``else_branch``.
    """
    return f"{outer}{output}.{branch}::"


def scoped_graphs(graph: GraphProto, scope: str = "") -> Iterator[tuple[str, GraphProto]]:
    """Yield a graph and all branches of If inside it, each with its prefix."""
    yield scope, graph
    for node in graph.node:
        if node.op_type == "If" and node.domain in ("", "ai.onnx") and node.output:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    inner = branch_scope(scope, node.output[0], attribute.name)
                    yield from scoped_graphs(attribute.g, inner)
