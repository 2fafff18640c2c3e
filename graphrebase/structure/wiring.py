"""Wiring: which norm a linear map reads, what scales its output, which channels rotate together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph, ShapeTable
from graphrebase.structure.blocks import Attention
from graphrebase.structure.linear import Linear
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.model import Structure
from graphrebase.structure.trace import Tracer

#: Operators that hand a stream on without mixing its channels.
_PASSES = {
    *("Cast", "Dropout", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose"),
    *("Unsqueeze", "ReduceMean"),
}
_LIMIT = 12


@dataclass(frozen=True, slots=True)
class NormFacts:
    """A norm as its readers see it.

    Attributes:
        gain, bias: role names, None where it has none.
        centred: it subtracts the mean (LayerNorm; RMSNorm does not).
    """

    gain: str | None
    bias: str | None
    centred: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a norm, and the one token of its output that was picked."""

    norm: NormFacts | None
    token: int | None


def norm_facts(structure: Structure) -> dict[str, NormFacts]:
    """Return the norms of a model by the value that each gives."""
    found = {}
    for stem, match in zip(structure.norm_stems, structure.norms, strict=True):
        gain, bias = f"{stem}.gain", f"{stem}.bias"
        found[match.parts["output"]] = NormFacts(
            gain if gain in structure.roles else None,
            bias if bias in structure.roles else None,
            match.facts.get("norm") == "LayerNorm",
        )
    return found


def origin(graph: Graph, norms: Mapping[str, NormFacts], value: str) -> Origin:
    """Return the norm that a value is the output of, through casts, reshapes and picked tokens."""
    token = None
    for _ in range(_LIMIT):
        if value in norms:
            return Origin(norms[value], token)
        node = graph.producers.get(value)
        if node is None or node.op_type not in _PASSES or graph.is_constant(node.inputs[0]):
            break
        if node.op_type == "Gather":
            index = graph.constant_value(node.inputs[1])
            token = int(index.reshape(-1)[0]) if index is not None and index.size == 1 else token
        value = node.inputs[0]
    return Origin(None, token)


def before_norm(graph: Graph, value: str, end: str) -> bool:
    """Tell whether a value is another one, through casts, reshapes, picked tokens and means."""
    for _ in range(_LIMIT):
        if value == end:
            return True
        node = graph.producers.get(value)
        if node is None or node.op_type not in _PASSES or graph.is_constant(node.inputs[0]):
            return False
        value = node.inputs[0]
    return False


def layer_scale(structure: Structure, block: Attention | Mlp) -> str | None:
    """Return the role of the vector that a block's output is multiplied by (LayerScale)."""
    linear = block.output.linear if isinstance(block, Attention) else block.down
    by_tensor = {role.view.tensor: name for name, role in structure.roles.items()}
    name = linear.output
    for _ in range(_LIMIT):
        users = [slot.node for slot in structure.graph.users(name)]
        if len(users) != 1 or users[0].op_type == "Add":
            return None
        node = users[0]
        if node.op_type == "Mul":
            role = next((by_tensor[n] for n in node.inputs if n in by_tensor), None)
            if role is not None and structure.roles[role].view.shape == (linear.out_width,):
                return role
        name = node.outputs[0]
    return None


def rotary_pairs(
    structure: Structure, shapes: ShapeTable, layer: Attention
) -> tuple[tuple[int, int], ...]:
    """Return the positions inside a head that rotate together, () without rotary embedding.

    Exports rotate with one RotaryEmbedding, or write x * cos + rotate(x) * sin, where ``rotate``
    negates the second member of each pair: the channels that reach the Neg are those members.
    """
    size = layer.query.index.shape[1]
    graph, target = structure.graph, layer.query.linear
    queue, seen = [layer.match.parts["query"]], set[str]()
    while queue:
        value = queue.pop(0)
        node = graph.producers.get(value)
        if node is None or value in seen or value in (target.output, target.product):
            continue
        seen.add(value)
        if node.op_type == "RotaryEmbedding":
            count = int(node.attributes.get("rotary_embedding_dim") or size) // 2
            return _pairs(count, bool(node.attributes.get("interleaved")))
        if node.op_type == "Neg":
            members = _positions(graph, shapes, node.inputs[0], target, layer.query.index)
            if members is not None:
                count = len(members)
                return _pairs(count, count > 1 and bool(np.all(np.diff(members) == 2)))
        queue.extend(n for n in node.inputs if n and not graph.is_constant(n))
    return ()


def _pairs(count: int, interleaved: bool) -> tuple[tuple[int, int], ...]:
    if interleaved:
        return tuple((2 * f, 2 * f + 1) for f in range(count))
    return tuple((f, f + count) for f in range(count))


def _positions(
    graph: Graph, shapes: ShapeTable, value: str, target: Linear, index: np.ndarray
) -> np.ndarray | None:
    """Return the positions inside the first head of the channels that a value holds."""
    found = Tracer(graph, shapes, {target.output: target, target.product: target}).trace(value)
    if found is None:
        return None
    place = {int(channel): position for position, channel in enumerate(index[0])}
    inside = [place[int(c)] for c in np.unique(found.table) if int(c) in place]
    return np.sort(np.array(inside)) if inside else None
