"""The parts of a model: linear maps, blocks, norms and streams, in one order for every exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphrebase.graph import Graph, ShapeTable, build_graph, infer_shapes
from graphrebase.graph.branches import paths
from graphrebase.graph.dequantized import float_view
from graphrebase.graph.pattern import Match, NearMiss, Scene
from graphrebase.graph.quantized import clipped_values
from graphrebase.io import Model
from graphrebase.structure.blocks import Attention, find_attention, find_matches
from graphrebase.structure.experts import find_expert_linears
from graphrebase.structure.linear import Linear, find_linears
from graphrebase.structure.mlp import Mlp, find_mlps
from graphrebase.structure.points import Edge, find_edges
from graphrebase.structure.streams import find_streams


@dataclass(frozen=True, slots=True)
class Parts:
    """Linear maps, blocks, norms and streams, along one path through the branches of a graph.

    Attributes:
        whole: the graph with all branches.
        source: the graph along this path.
        graph: the float graph that ``source`` stands for (itself, unless quantised).
        shapes: shapes of ``whole``.
        linears: every linear map, in topological order.
        blocks: attention layers and MLPs, tower by tower.
        towers: number of the residual stream of every block.
        edges: points of the stream that every block reads and writes.
        tower_inputs: the graph inputs that feed each tower.
        norms: normalisations, tower by tower.
        near_misses: idioms that almost fitted.
    """

    whole: Graph
    source: Graph
    graph: Graph
    shapes: ShapeTable
    linears: Sequence[Linear]
    blocks: tuple[Attention | Mlp, ...]
    towers: tuple[int, ...]
    edges: tuple[Edge, ...]
    tower_inputs: Sequence[tuple[str, ...]]
    norms: tuple[Match, ...]
    near_misses: tuple[NearMiss, ...]


def find_parts(model: Model) -> list[Parts]:
    """Return the parts of a model, along every path through its branches (see ``paths``)."""
    whole = build_graph(model)
    shapes = infer_shapes(whole)
    return [_parts_of(whole, source, shapes) for source in paths(whole)]


def _parts_of(whole: Graph, source: Graph, shapes: ShapeTable) -> Parts:
    graph = float_view(source)
    linears = [*find_linears(graph, shapes), *find_expert_linears(graph, shapes)]
    linears.sort(key=lambda linear: linear.node.index)
    matches, missed = find_matches(Scene(graph, shapes))
    attention, lost = find_attention(
        graph, shapes, linears, [m for m in matches if m.kind == "attention"]
    )
    taken = [linear for layer in attention for linear in layer.linears]
    mlps = find_mlps(graph, shapes, linears, taken, clipped_values(source))
    feeds = feeding_inputs(graph)
    ordered = _in_order(graph, [*attention, *mlps], feeds)
    towers = tuple(find_streams(graph, [b.residual for b in ordered]))
    keys = list(dict.fromkeys(_stream_inputs(ordered, towers, feeds)))
    norms = [m for m in matches if m.kind == "norm"]
    norms.sort(key=lambda m: (tower_of(feeds[m.parts["output"]], keys), m.node.index))
    return Parts(
        whole=whole,
        source=source,
        graph=graph,
        shapes=shapes,
        linears=linears,
        blocks=tuple(ordered),
        towers=towers,
        edges=find_edges(graph, ordered, towers),
        tower_inputs=keys,
        norms=tuple(norms),
        near_misses=(*missed, *lost),
    )


def _in_order(
    graph: Graph, blocks: Sequence[Attention | Mlp], feeds: Mapping[str, tuple[str, ...]]
) -> list[Attention | Mlp]:
    """Return the blocks stream by stream, whatever the order in which an exporter wrote them.

    A stream comes by the graph inputs that its last block depends on: the first self-attention of
    a decoder does not depend on what the encoder reads, the decoder does.
    """
    near = sorted(blocks, key=lambda b: (feeds[end_of(b)], position_of(b)))
    inputs = _stream_inputs(near, find_streams(graph, [b.residual for b in near]), feeds)
    placed = zip(inputs, map(position_of, near), range(len(near)), strict=True)
    return [near[i] for _, _, i in sorted(placed)]


def _stream_inputs(
    blocks: Sequence[Attention | Mlp],
    streams: Sequence[int],
    feeds: Mapping[str, tuple[str, ...]],
) -> list[tuple[str, ...]]:
    """Return for every block the graph inputs that the last block of its stream depends on."""
    last = dict(sorted(zip(streams, blocks, strict=True), key=lambda pair: position_of(pair[1])))
    return [feeds[end_of(last[stream])] for stream in streams]


def tower_of(inputs: tuple[str, ...], towers: Sequence[tuple[str, ...]]) -> int:
    """Return the first tower that a value with these inputs may belong to."""
    fitting = (i for i, tower in enumerate(towers) if set(inputs) <= set(tower))
    return next(fitting, len(towers))


def end_of(block: Attention | Mlp) -> str:
    """Return the value that a block gives, after its residual connection if it has one."""
    if block.residual is not None:
        return block.residual.node.outputs[0]
    linear = block.output.linear if isinstance(block, Attention) else block.down
    return linear.output


def position_of(block: Attention | Mlp) -> int:
    """Return the index of the node that gives ``end_of`` a block."""
    linear = block.output.linear if isinstance(block, Attention) else block.down
    return block.residual.node.index if block.residual else linear.node.index


def feeding_inputs(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the graph inputs that every value depends on, sorted by name."""
    masks: dict[str, int] = {name: 1 << i for i, name in enumerate(graph.inputs)}
    for node in graph.nodes:
        mask = 0
        for name in (*node.inputs, *node.captured):
            mask |= masks.get(name, 0)
        for name in node.outputs:
            masks[name] = mask
    names = list(graph.inputs)
    table = {
        m: tuple(sorted(n for i, n in enumerate(names) if m >> i & 1)) for m in set(masks.values())
    }
    return {value: table[mask] for value, mask in masks.items()}
