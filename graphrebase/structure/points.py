"""Points of a residual stream: which one a block reads, passes by and writes.

Blocks one after the other go from point to point. Blocks in parallel read the same point, and share
the next one where their outputs are summed first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphrebase.graph import Graph
from graphrebase.structure.blocks import Attention
from graphrebase.structure.mlp import Mlp

#: Nodes between a stream and its reader: a norm written out is about ten.
_LIMIT = 40


@dataclass(frozen=True, slots=True)
class Edge:
    """The points of one block, by number.

    Attributes:
        reads: the point its weights read.
        before: the point that passes by, to which its output is added.
        after: the point that this gives.
    """

    reads: int
    before: int
    after: int


def find_edges(
    graph: Graph, blocks: Sequence[Attention | Mlp], towers: Sequence[int]
) -> tuple[Edge, ...]:
    """Return the edge of every block; the points of a later tower have higher numbers."""
    found: list[Edge] = []
    known: dict[str, int] = {}
    joined: dict[int, Edge] = {}
    point = 0
    for index, (block, tower) in enumerate(zip(blocks, towers, strict=True)):
        residual = block.residual
        shared = joined.get(residual.node.index) if residual is not None else None
        if shared is None:
            if index and tower != towers[index - 1]:
                point += 1
            shared = Edge(point, point, point + 1)
            point += 1
        if residual is not None:
            known.setdefault(residual.node.inputs[residual.skip], shared.before)
            known[residual.node.outputs[0]] = shared.after
            joined[residual.node.index] = shared
        reads = _nearest(graph, _reader(block), known)
        found.append(Edge(shared.before if reads is None else reads, shared.before, shared.after))
    return tuple(found)


def point_names(
    edges: Sequence[Edge], towers: Sequence[int], residual: str
) -> Iterable[tuple[str, str, str]]:
    """Yield the spaces (read, passed by, written) of every block.

    Args:
        edges: the points.
        towers: the tower of every block.
        residual: ``per-point`` or ``shared`` (one space for a whole stream).
    """
    many = len(set(towers)) > 1
    for edge, tower in zip(edges, towers, strict=True):
        if residual == "per-point":
            numbers = (edge.reads, edge.before, edge.after)
            yield tuple(f"residual.{n}" for n in numbers)  # type: ignore[misc]
        else:
            name = f"residual.{tower}" if many else "residual"
            yield name, name, name


def _reader(block: Attention | Mlp) -> str:
    return block.query.linear.input if isinstance(block, Attention) else block.up.input


def _nearest(graph: Graph, value: str, known: Mapping[str, int]) -> int | None:
    """Return the point that a value is computed from by a norm at most."""
    queue, seen = [value], {value}
    while queue and len(seen) < _LIMIT:
        name = queue.pop(0)
        if name in known:
            return known[name]
        node = graph.producers.get(name)
        if node is not None:
            fresh = [n for n in node.inputs if n and n not in seen and not graph.is_constant(n)]
            seen.update(fresh)
            queue.extend(fresh)
    return None
