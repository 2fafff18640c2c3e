"""The structure of one model: blocks, roles and spaces, from the graph to what methods align."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.align import Space
from graphrebase.errors import UsageError
from graphrebase.graph import Graph, ShapeTable, build_graph, infer_shapes
from graphrebase.graph.branches import paths
from graphrebase.graph.dequantized import float_view
from graphrebase.graph.pattern import Match, NearMiss, Scene
from graphrebase.io import Model
from graphrebase.structure import roles as _roles
from graphrebase.structure.blocks import Attention, find_attention, find_matches
from graphrebase.structure.experts import expert_roles, find_expert_linears, find_router
from graphrebase.structure.linear import Linear, by_output, find_linears
from graphrebase.structure.mlp import Mlp, find_mlps
from graphrebase.structure.points import Edge, find_edges, point_names
from graphrebase.structure.residual import Residual
from graphrebase.structure.roles import Role, SpaceTable
from graphrebase.structure.streams import find_streams
from graphrebase.symmetry import FREE_KINDS, Symmetry, find_symmetry
from graphrebase.symmetry.axes import Axis

RESIDUAL_MODES = ("per-point", "shared")


@dataclass(frozen=True, slots=True)
class Skip:
    """A skip edge of the residual stream, where a per-point alignment changes the basis.

    Attributes:
        node: an output of the node that adds, as the file has it (fused or not).
        position: its input that passes by.
        before, after: spaces on both sides.
    """

    node: str
    position: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Structure:
    """What graphrebase understands of a model.

    Attributes:
        model: the file.
        graph: its view, along one branch of every If.
        float_graph: the float graph that a quantised one stands for, else ``graph`` itself.
        symmetry: groups with every residual connection intact: what the graph itself allows.
        blocks: attention layers and MLPs in the order of the residual stream.
        norms: normalisations in topological order.
        norm_stems: what the roles of each are called, without gain and bias.
        near_misses: idioms that almost fitted.
        roles: canonical arrays by name, in topological order.
        spaces: index spaces of the roles.
        leaves: the free axes of ``space_symmetry`` behind every space.
        partial: name and kind of free axes that are a part of an axis, and no space of their own.
        fixed: head spaces that must keep their order.
        space_symmetry: the algebra the spaces come from (skips cut for ``per-point``).
        skips: skip edges, empty for ``shared``.
        towers: number of the residual stream of every block.
        edges: points of the stream that every block reads and writes.
    """

    model: Model
    graph: Graph
    float_graph: Graph
    symmetry: Symmetry
    blocks: tuple[Attention | Mlp, ...]
    norms: tuple[Match, ...]
    norm_stems: tuple[str, ...]
    near_misses: tuple[NearMiss, ...]
    roles: Mapping[str, Role]
    spaces: Mapping[str, Space]
    leaves: Mapping[str, tuple[Axis, ...]]
    partial: Mapping[Axis, tuple[str, str]]
    fixed: frozenset[str]
    space_symmetry: Symmetry
    skips: tuple[Skip, ...]
    towers: tuple[int, ...]
    edges: tuple[Edge, ...]

    @property
    def attention(self) -> list[Attention]:
        """Return the attention layers."""
        return [b for b in self.blocks if isinstance(b, Attention)]

    @property
    def quantized(self) -> bool:
        """Tell whether the model computes with quantised numbers."""
        return self.float_graph is not self.graph

    def read(self, role: str) -> np.ndarray:
        """Return the canonical array of a role."""
        view = self.roles[role].view
        return view.read(self.model.tensors[view.tensor].load())


@dataclass(frozen=True, slots=True)
class _Parts:
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


def find_structure(
    model: Model, *, residual: str = "shared", free: Iterable[str] = FREE_KINDS
) -> Structure:
    """Return blocks, roles and spaces of a model.

    Args:
        model: the model, without its weights.
        residual: ``shared`` (one permutation for a residual stream) or ``per-point``.
        free: interface axes that may move (see ``find_symmetry``): all of them, since a result
            lives in another basis as a whole.

    Raises:
        UsageError: unknown residual mode.
    """
    if residual not in RESIDUAL_MODES:
        raise UsageError(f"unknown residual mode '{residual}'", hint="use per-point or shared")
    ways = _find_parts(model)
    parts = ways[0]
    free = tuple(free)
    intact = find_symmetry(parts.whole, parts.shapes, free=free)
    cut = intact
    if residual == "per-point":
        edges = {
            (b.residual.node.index, b.residual.skip)
            for way in ways
            for b in way.blocks
            if b.residual and b.residual.node.stored(b.residual.skip)
        }
        cut = find_symmetry(parts.whole, parts.shapes, free=free, cuts=edges, latent=intact.latent)
    table = SpaceTable(cut)
    skips = [skip for way in ways for skip in _residual_spaces(way, table, residual)]
    found = _collect_roles(parts, table)
    return Structure(
        model=model,
        graph=parts.source,
        float_graph=parts.graph,
        symmetry=intact,
        blocks=parts.blocks,
        norms=parts.norms,
        norm_stems=_norm_stems(parts),
        near_misses=parts.near_misses,
        roles={role.name: role for role in sorted(found, key=lambda r: r.order)},
        spaces=table.spaces,
        leaves=table.leaves,
        partial=table.partial,
        fixed=frozenset(table.fixed),
        space_symmetry=cut,
        skips=tuple(skips) if residual == "per-point" else (),
        towers=parts.towers,
        edges=parts.edges,
    )


def _find_parts(model: Model) -> list[_Parts]:
    """Return the parts of a model, along every path through its branches (see ``paths``)."""
    whole = build_graph(model)
    shapes = infer_shapes(whole)
    return [_parts_of(whole, source, shapes) for source in paths(whole)]


def _parts_of(whole: Graph, source: Graph, shapes: ShapeTable) -> _Parts:
    graph = float_view(source)
    linears = [*find_linears(graph, shapes), *find_expert_linears(graph, shapes)]
    linears.sort(key=lambda linear: linear.node.index)
    matches, missed = find_matches(Scene(graph, shapes))
    attention, lost = find_attention(
        graph, shapes, linears, [m for m in matches if m.kind == "attention"]
    )
    taken = [linear for layer in attention for linear in layer.linears]
    mlps = find_mlps(graph, shapes, linears, taken)
    feeds = _feeding_inputs(graph)
    ordered: list[Attention | Mlp] = [*attention, *mlps]
    ordered.sort(key=lambda b: (feeds[_end(b)], _position(b)))
    keys = list(dict.fromkeys(feeds[_end(b)] for b in ordered))
    towers = tuple(find_streams(graph, [b.residual for b in ordered]))
    norms = [m for m in matches if m.kind == "norm"]
    norms.sort(key=lambda m: (_tower(feeds[m.parts["output"]], keys), m.node.index))
    return _Parts(
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


def _tower(inputs: tuple[str, ...], towers: Sequence[tuple[str, ...]]) -> int:
    """Return the first tower that a value with these inputs may belong to."""
    fitting = (i for i, tower in enumerate(towers) if set(inputs) <= set(tower))
    return next(fitting, len(towers))


def _end(block: Attention | Mlp) -> str:
    if block.residual is not None:
        return block.residual.node.outputs[0]
    linear = block.output.linear if isinstance(block, Attention) else block.down
    return linear.output


def _position(block: Attention | Mlp) -> int:
    linear = block.output.linear if isinstance(block, Attention) else block.down
    return block.residual.node.index if block.residual else linear.node.index


def _feeding_inputs(graph: Graph) -> dict[str, tuple[str, ...]]:
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


def _residual_spaces(parts: _Parts, table: SpaceTable, residual: str) -> list[Skip]:
    """Name the points of every residual stream; blocks in parallel share an Add and its skip."""
    skips: list[Skip] = []
    joined: set[int] = set()
    named = point_names(parts.edges, parts.towers, residual)
    for block, (_, passed, written) in zip(parts.blocks, named, strict=True):
        if block.residual is not None and block.residual.node.index not in joined:
            joined.add(block.residual.node.index)
            before, after = _roles.residual_space(table, block.residual, passed, written)
            skips.extend(_skip(block.residual, before, after))
    return skips


def _skip(residual: Residual, before: str | None, after: str | None) -> Iterable[Skip]:
    place = residual.node.stored(residual.skip)
    if place is not None:
        node, position = place
        yield Skip(next(filter(None, node.outputs)), position, before, after)


def _collect_roles(parts: _Parts, table: SpaceTable) -> list[Role]:
    graph, shapes = parts.graph, parts.shapes
    found: list[Role] = []
    used: set[int] = set()
    layers: dict[str, int] = {"attention": 0, "mlp": 0}
    outputs = by_output(parts.linears)
    for block in parts.blocks:
        if isinstance(block, Attention):
            found.extend(_roles.attention_roles(table, block, layers["attention"]))
            layers["attention"] += 1
            used |= {id(linear) for linear in block.linears}
        else:
            router = find_router(graph, block, outputs) if block.experts > 1 else None
            if block.experts > 1:
                found.extend(expert_roles(table, block, router, layers["mlp"]))
            else:
                found.extend(_roles.mlp_roles(table, block, layers["mlp"]))
            layers["mlp"] += 1
            used |= {id(x) for x in (block.up, block.gate, block.down, router)}
    for stem, match in zip(_norm_stems(parts), parts.norms, strict=True):
        found.extend(_roles.norm_roles(table, graph, shapes, match, stem))
    # DeBERTa puts its relative positions through the projections of q and k: they have roles then.
    inside = {role.view.tensor for role in found}
    rest = [x for x in parts.linears if id(x) not in used and x.weight.tensor not in inside]
    found.extend(_linear_roles(parts, table, rest))
    sources = _index_sources(graph)
    for node in graph.nodes:
        if node.op_type == "Gather" and node.inputs[0] in graph.constants:
            found.extend(_roles.embedding_roles(table, graph, sources, node))
    claimed = {role.view.tensor for role in found}
    found.extend(_roles.other_roles(table, graph, claimed))
    if parts.whole is not parts.source:  # what only the other branches read
        claimed = {role.view.tensor for role in found}
        found.extend(_roles.other_roles(table, float_view(parts.whole), claimed))
    return _unique(found)


def _linear_roles(parts: _Parts, table: SpaceTable, rest: Sequence[Linear]) -> Iterable[Role]:
    """Yield the linear maps outside blocks: embeddings before the first, heads after it.

    What a later block still reads (the gate of a shared expert) is part of the body, not a head.
    """
    inner = _read_by_blocks(parts)
    first = min((_position(b) for b in parts.blocks), default=-1)
    feeds = _feeding_inputs(parts.graph)
    counts: dict[str, int] = {}
    towers = parts.tower_inputs
    for linear in sorted(rest, key=lambda x: (_tower(feeds[x.output], towers), x.node.index)):
        rank = len(parts.shapes.shape(linear.output) or ())
        if not _is_head(linear, first):
            stem, kind = "embedding.linear", "embedding"
        elif linear.node.index in inner:
            stem, kind = "inner.linear", "mlp"
        else:
            stem, kind = ("head.pooled" if rank == 2 else "head.tokens"), "head"
        number = counts.get(stem, 0)
        counts[stem] = number + 1
        yield from _roles.linear_roles(table, linear, f"{stem}.{number}", kind)


def _read_by_blocks(parts: _Parts) -> set[int]:
    """Return the nodes whose results reach the end of a block."""
    stack = [_end(block) for block in parts.blocks]
    found: set[int] = set()
    while stack:
        node = parts.graph.producers.get(stack.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            stack.extend(name for name in node.inputs if name)
    return found


def _is_head(linear: Linear, first: int) -> bool:
    """Return whether a linear map outside blocks is of a head: after the first block."""
    return linear.node.op_type != "Conv" and linear.node.index >= first


def _norm_stems(parts: _Parts) -> tuple[str, ...]:
    """Name the norms: those of the body, and those inside a head, which comes and goes."""
    inside = _inside_heads(parts)
    counts = {"norm": 0, "head.norm": 0}
    found = []
    for match in parts.norms:
        kind = "head.norm" if match.parts["input"] in inside else "norm"
        found.append(f"{kind}.{counts[kind]}")
        counts[kind] += 1
    return tuple(found)


def _inside_heads(parts: _Parts) -> set[str]:
    """Return the values that follow from a head's linear map."""
    first = min((_position(b) for b in parts.blocks), default=-1)
    inner = _read_by_blocks(parts)
    heads = (x for x in parts.linears if _is_head(x, first) and x.node.index not in inner)
    values = {x.output for x in heads}
    for node in parts.graph.nodes:
        if not values.isdisjoint((*node.inputs, *node.captured)):
            values.update(node.outputs)
    return values


def _index_sources(graph: Graph) -> dict[str, str]:
    """Return the graph input that an index value is, through casts and reshapes only."""
    sources = {name: name for name in graph.inputs}
    for node in graph.nodes:
        passing = node.op_type in ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Identity")
        if passing and node.inputs[0] in sources:
            sources[node.outputs[0]] = sources[node.inputs[0]]
    return sources


def _unique(found: Sequence[Role]) -> list[Role]:
    """Number roles of equal name, keep the first use of one view."""
    result: list[Role] = []
    names: dict[str, list[str]] = {}
    for role in found:
        same = names.setdefault(role.name, [])
        if role.view.tensor in same and role.view.whole:
            continue
        name = role.name if not same else f"{role.name}.{len(same)}"
        same.append(role.view.tensor)
        result.append(replace(role, name=name))
    return result
