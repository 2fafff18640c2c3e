"""Blocks of a transformer: attention and MLP, found by their semantic core, ended by a residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.pattern import Match, NearMiss, Scene
from graphrebase.structure.linear import Linear, by_output
from graphrebase.structure.trace import channels, distinct_rows, send, source_of, target_of

#: Operators an activation function may consist of.
_ACTIVATION = {
    *("Add", "BiasGelu", "Cast", "Clip", "Div", "Elu", "Erf", "FastGelu", "Gelu", "HardSwish"),
    *("LeakyRelu", "Mul", "Pow", "QuickGelu", "Relu", "Sigmoid", "Swish", "Tanh", "Dropout"),
    *("Reshape", "Split", "Slice", "Softplus", "Sqrt", "Sub", "Neg"),
}
_NONLINEAR = {
    *("BiasGelu", "Elu", "Erf", "FastGelu", "Gelu", "HardSwish", "LeakyRelu", "QuickGelu", "Relu"),
    *("Sigmoid", "Softplus", "Swish", "Tanh"),
}
_TO_RESIDUAL = {"Cast", "Dropout", "Mul", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True, slots=True)
class Residual:
    """The Add that closes a block.

    Attributes:
        node: the Add.
        skip: input position of the stream that passes by.
        branch: input position of what the block adds.
    """

    node: Node
    skip: int
    branch: int


@dataclass(frozen=True, slots=True)
class Projection:
    """The part of a linear map that one attention operand comes from.

    Attributes:
        linear: the linear map.
        index: its output channel for every (head, position inside the head), shape (h, d).
    """

    linear: Linear
    index: np.ndarray


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention layer.

    Attributes:
        match: the pattern's parts.
        query, key, value: where the operands come from; (h, d), (kv, d), (kv, d).
        output: the linear map after the heads; ``index`` is its input channel per (h, d).
        kv_of: kv head that each query head reads, shape (h,).
    """

    match: Match
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    kv_of: np.ndarray
    residual: Residual | None

    @property
    def heads(self) -> int:
        """Return the number of query heads."""
        return len(self.query.index)

    @property
    def kv_heads(self) -> int:
        """Return the number of key-value heads."""
        return len(self.key.index)


@dataclass(frozen=True, slots=True)
class Mlp:
    """One MLP: ``up`` (fc1), optionally ``gate``, and ``down`` (fc2).

    ``up_index`` and ``gate_index`` are the output channels of their linear maps that the hidden
    units come from, shape (M,).
    """

    up: Linear
    up_index: np.ndarray
    gate: Linear | None
    gate_index: np.ndarray | None
    down: Linear
    residual: Residual | None

    @property
    def width(self) -> int:
        """Return the number of hidden units."""
        return self.down.in_width


@dataclass(frozen=True, slots=True)
class _Search:
    graph: Graph
    shapes: ShapeTable
    outputs: Mapping[str, Linear]
    readers: Mapping[str, Linear]


def find_attention(
    graph: Graph, shapes: ShapeTable, linears: Sequence[Linear], matches: Sequence[Match]
) -> tuple[list[Attention], list[NearMiss]]:
    """Return the attention layers behind pattern matches, and those whose weights got lost."""
    search = _search(graph, shapes, linears)
    found: list[Attention] = []
    missed: list[NearMiss] = []
    for match in matches:
        layer = _attention(search, match)
        if isinstance(layer, Attention):
            found.append(layer)
        else:
            missed.append(NearMiss("attention", match.node, layer))
    return found, missed


def _search(graph: Graph, shapes: ShapeTable, linears: Sequence[Linear]) -> _Search:
    readers = {linear.input: linear for linear in reversed(linears)}
    return _Search(graph, shapes, by_output(linears), readers)


def _attention(search: _Search, match: Match) -> Attention | str:
    transposed = match.facts.get("key_layout") == "transposed"
    tables: dict[str, tuple[Linear, np.ndarray]] = {}
    for part in ("query", "key", "value"):
        swap = part == "key" and transposed
        table = _head_table(search, match.parts[part], swap)
        if table is None:
            return f"the {part} operand could not be followed to a linear map"
        tables[part] = table
    output = _output_table(search, match.parts["output"])
    if output is None:
        return "the attention output could not be followed to a linear map"
    query = distinct_rows(tables["query"][1])
    key = distinct_rows(tables["key"][1])
    value = distinct_rows(tables["value"][1])
    if len(query) % len(key) or len(key) != len(value):
        return "query, key and value heads do not fit together"
    return Attention(
        match=match,
        query=Projection(tables["query"][0], query),
        key=Projection(tables["key"][0], key),
        value=Projection(tables["value"][0], value),
        output=Projection(output[0], output[1]),
        kv_of=_kv_of(tables["key"][1], key, len(query)),
        residual=find_residual(search.graph, search.shapes, output[0].output),
    )


def _head_table(search: _Search, value: str, swapped: bool) -> tuple[Linear, np.ndarray] | None:
    """Return the linear map behind an operand and its channels per (batch x head, d)."""
    found = source_of(search.graph, search.shapes, value, search.outputs)
    if found is None:
        return None
    linear, steps = found
    start = steps[0][1] if steps else value
    numbers = channels(search.shapes, start)
    table = None if numbers is None else send(search.graph, search.shapes, numbers, steps)
    if table is None or table.ndim < 3:
        return None
    first = table[..., :, 0] if swapped else table[..., 0, :]
    return linear, first.reshape(-1, first.shape[-1])


def _kv_of(rows: np.ndarray, distinct: np.ndarray, heads: int) -> np.ndarray:
    """Return the kv head of every query head, from the repeated rows of the key operand."""
    order = {row.tobytes(): i for i, row in enumerate(distinct)}
    per_row = np.array([order[np.ascontiguousarray(row).tobytes()] for row in rows])
    if len(per_row) >= heads and len(per_row) % heads == 0:
        return per_row[:heads]
    return np.repeat(np.arange(len(distinct)), heads // len(distinct))


def _output_table(search: _Search, value: str) -> tuple[Linear, np.ndarray] | None:
    """Return the output projection and its input channel per (h, d)."""
    found = target_of(search.graph, value, search.readers)
    shape = search.shapes.shape(value)
    if found is None or shape is None or len(shape) < 3:
        return None
    linear, steps = found
    size = [d[0] for d in shape]
    lead, inner = int(np.prod(size[:-2])), size[-1]
    width = linear.in_width
    heads = width // inner
    # The leading axes are batch and heads, the batch outermost.
    numbers = (np.arange(lead) % heads)[:, None] * inner + np.arange(inner)
    grid = np.broadcast_to(numbers.reshape(*size[:-2], 1, inner), size)
    sent = send(search.graph, search.shapes, grid, steps)
    if sent is None or sent.shape[-1] != width:
        return None
    line = sent.reshape(-1, width)[0]
    if not np.array_equal(np.sort(line), np.arange(width)):
        return None
    return linear, np.argsort(line).reshape(heads, inner)


def find_mlps(
    graph: Graph, shapes: ShapeTable, linears: Sequence[Linear], taken: Sequence[Linear]
) -> list[Mlp]:
    """Return the MLPs: a linear map that reads an activation of one or two others.

    Args:
        graph: the graph.
        shapes: its shapes.
        linears: all linear maps.
        taken: linear maps that belong to attention.
    """
    search = _search(graph, shapes, linears)
    used = {id(linear) for linear in taken}
    found: list[Mlp] = []
    for down in linears:
        if id(down) in used:
            continue
        residual = find_residual(graph, shapes, down.output)
        if residual is None:
            continue
        mlp = _mlp(search, down, residual, used)
        if mlp is not None:
            found.append(mlp)
    return found


def _mlp(search: _Search, down: Linear, residual: Residual, used: set[int]) -> Mlp | None:
    sources, nonlinear = _activation_sources(search, down.input)
    if not nonlinear or not 1 <= len(sources) <= 2:
        return None
    if any(id(linear) in used or linear is down for linear, _ in sources.values()):
        return None
    indices = {}
    for value, (linear, steps) in sources.items():
        numbers = channels(search.shapes, value)
        table = None if numbers is None else send(search.graph, search.shapes, numbers, steps)
        if table is None or table.shape[-1] != down.in_width:
            return None
        indices[value] = (linear, table.reshape(-1, table.shape[-1])[0])
    # A packed gate_up linear gives one value per half, both from the same map.
    gate_value = nonlinear if len(sources) == 2 else None
    (up, up_index) = next(v for k, v in indices.items() if k != gate_value or len(indices) == 1)
    gate, gate_index = indices.get(gate_value or "", (None, None))
    return Mlp(up, up_index, gate, gate_index, down, residual)


def _activation_sources(
    search: _Search, value: str
) -> tuple[dict[str, tuple[Linear, list[tuple[Node, str, str]]]], str]:
    """Return linear outputs that an activation region reads, and the one its core acts on."""
    queue: list[tuple[str, list[tuple[Node, str, str]]]] = [(value, [])]
    seen = {value}
    sources: dict[str, tuple[Linear, list[tuple[Node, str, str]]]] = {}
    acted = ""
    while queue:
        name, steps = queue.pop(0)
        if name in search.outputs:
            sources[name] = (search.outputs[name], steps)
            if any(node.op_type in _NONLINEAR for node, _, _ in steps):
                acted = acted or name
            continue
        node = search.graph.producers.get(name)
        if node is None or node.op_type not in _ACTIVATION or len(steps) > 24:
            return {}, ""
        for source in dict.fromkeys(node.inputs):
            if not source or search.graph.is_constant(source) or source in search.shapes.values:
                continue
            if source not in seen:
                seen.add(source)
                queue.append((source, [(node, source, name), *steps]))
    if not acted and sources:
        acted = _acted_on(search, value, sources)
    return sources, acted


def _acted_on(search: _Search, value: str, sources: Mapping[str, object]) -> str:
    """Return the linear output that a nonlinearity reads by some way (not the shortest one)."""
    stack, seen = [(value, False)], set[tuple[str, bool]]()
    while stack:
        name, active = stack.pop()
        if (name, active) in seen:
            continue
        seen.add((name, active))
        if name in sources:
            if active:
                return name
            continue
        node = search.graph.producers.get(name)
        if node is not None:
            now = active or node.op_type in _NONLINEAR
            stack.extend((n, now) for n in node.inputs if n and not search.graph.is_constant(n))
    return ""


def find_residual(graph: Graph, shapes: ShapeTable, branch: str) -> Residual | None:
    """Return the Add that joins a block's output to the stream, or None.

    On the way may stand LayerScale (Mul by a constant), reshapes and the seq-first transposes.
    """
    name = branch
    for _ in range(8):
        users = graph.users(name)
        for slot in users:
            node = slot.node
            if node.op_type == "Add" and slot.position >= 0:
                skip = 1 - slot.position
                if _is_stream(graph, shapes, node.inputs[skip], name):
                    return Residual(node, skip, slot.position)
        following = [s.node for s in users if s.node.op_type in _TO_RESIDUAL]
        if len(following) != 1:
            return None
        name = following[0].outputs[0]
    return None


def _is_stream(graph: Graph, shapes: ShapeTable, skip: str, branch: str) -> bool:
    if graph.is_constant(skip) or skip in shapes.values:
        return False
    return shapes.shape(skip) is not None and shapes.shape(skip) == shapes.shape(branch)


def find_matches(scene: Scene) -> tuple[list[Match], list[NearMiss]]:
    """Return what the patterns of the ``patterns`` folder find in a graph."""
    from graphrebase.patterns import PATTERNS

    matches: list[Match] = []
    missed: list[NearMiss] = []
    for node in scene.graph.nodes:
        for pattern in PATTERNS:
            if node.op_type not in pattern.core:
                continue
            result = pattern.match(scene, node)
            if isinstance(result, Match):
                matches.append(result)
                break
            if result is not None:
                missed.append(result)
    return matches, missed
