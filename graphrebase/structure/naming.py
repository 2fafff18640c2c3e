"""Names for everything learned: blocks by number, the rest by where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphrebase.graph import Graph
from graphrebase.graph.dequantized import float_view
from graphrebase.structure import roles as _roles
from graphrebase.structure.blocks import Attention
from graphrebase.structure.experts import expert_roles, find_router
from graphrebase.structure.linear import Linear, by_output
from graphrebase.structure.parts import Parts, end_of, feeding_inputs, position_of, tower_of
from graphrebase.structure.roles import Role
from graphrebase.structure.spaces import SpaceTable


def collect_roles(parts: Parts, table: SpaceTable) -> list[Role]:
    """Return the roles of a model; no two have one name, no constant has none."""
    graph = parts.graph
    found, used = _block_roles(parts, table)
    for stem, match in zip(norm_stems(parts), parts.norms, strict=True):
        found.extend(_roles.norm_roles(table, graph, parts.shapes, match, stem))
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


def _block_roles(parts: Parts, table: SpaceTable) -> tuple[list[Role], set[int]]:
    """Return the roles of all blocks, numbered by kind, and the ids of the linear maps in them."""
    found: list[Role] = []
    used: set[int] = set()
    layers = {"attention": 0, "mlp": 0}
    outputs = by_output(parts.linears)
    for block in parts.blocks:
        kind = "attention" if isinstance(block, Attention) else "mlp"
        number = layers[kind]
        layers[kind] += 1
        if isinstance(block, Attention):
            found.extend(_roles.attention_roles(table, block, number))
            used |= {id(linear) for linear in block.linears}
        elif block.experts > 1:
            router = find_router(parts.graph, block, outputs)
            found.extend(expert_roles(table, block, router, number))
            used |= {id(x) for x in (block.up, block.gate, block.down, router)}
        else:
            found.extend(_roles.mlp_roles(table, block, number))
            used |= {id(x) for x in (block.up, block.gate, block.down)}
    return found, used


def _linear_roles(parts: Parts, table: SpaceTable, rest: Sequence[Linear]) -> Iterable[Role]:
    """Yield the linear maps outside blocks: embeddings before the first, heads after it.

    What a later block still reads (the gate of a shared expert) is part of the body, not a head.
    """
    inner, entering = _read_by_blocks(parts), _entering(parts)
    own = inner - entering if any(b.residual for b in parts.blocks) else set()
    first = min((position_of(b) for b in parts.blocks), default=-1)
    feeds = feeding_inputs(parts.graph)
    counts: dict[str, int] = {}
    towers = parts.tower_inputs
    for linear in sorted(rest, key=lambda x: (tower_of(feeds[x.output], towers), x.node.index)):
        rank = len(parts.shapes.shape(linear.output) or ())
        index = linear.node.index
        if not _is_head(linear, first) and index not in own:
            stem, kind = "embedding.linear", "embedding"
        elif index in inner:
            stem, kind = "inner.linear", "mlp"
        else:
            stem, kind = ("head.pooled" if rank == 2 else "head.tokens"), "head"
        number = counts.get(stem, 0)
        counts[stem] = number + 1
        yield from _roles.linear_roles(table, linear, f"{stem}.{number}", kind)


def _read_by_blocks(parts: Parts) -> set[int]:
    """Return the nodes whose results reach the end of a block."""
    return _behind(parts.graph, [end_of(block) for block in parts.blocks])


def _entering(parts: Parts) -> set[int]:
    """Return the nodes that make what enters each residual stream: the embeddings."""
    firsts: dict[int, str] = {}
    for tower, block in zip(parts.towers, parts.blocks, strict=True):
        if block.residual is not None:
            firsts.setdefault(tower, block.residual.node.inputs[block.residual.skip])
    return _behind(parts.graph, list(firsts.values()))


def _behind(graph: Graph, stack: list[str]) -> set[int]:
    """Return the nodes that some values depend on."""
    found: set[int] = set()
    while stack:
        node = graph.producers.get(stack.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            stack.extend(name for name in node.inputs if name)
    return found


def _is_head(linear: Linear, first: int) -> bool:
    """Return whether a linear map outside blocks is of a head: after the first block."""
    return linear.node.op_type != "Conv" and linear.node.index >= first


def norm_stems(parts: Parts) -> tuple[str, ...]:
    """Name the norms: those of the body, and those inside a head, which comes and goes."""
    inside = _inside_heads(parts)
    counts = {"norm": 0, "head.norm": 0}
    found = []
    for match in parts.norms:
        kind = "head.norm" if match.parts["input"] in inside else "norm"
        found.append(f"{kind}.{counts[kind]}")
        counts[kind] += 1
    return tuple(found)


def _inside_heads(parts: Parts) -> set[str]:
    """Return the values that follow from a head's linear map."""
    first = min((position_of(b) for b in parts.blocks), default=-1)
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
