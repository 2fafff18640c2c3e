"""Attention layers, found by their semantic core: the linear maps behind q, k, v and after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph, ShapeTable
from graphrebase.graph.pattern import Match, NearMiss, Scene
from graphrebase.structure.linear import Linear, by_output
from graphrebase.structure.onward import target_of
from graphrebase.structure.residual import Residual, find_residual
from graphrebase.structure.trace import (
    ELSEWHERE,
    Tracer,
    channel_line,
    distinct_rows,
    given_numbers,
    send,
)
from graphrebase.symmetry.axes import Axis


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
class Given:
    """Keys or values that the graph is given, as cross attention is by an earlier step.

    Attributes:
        index: a number for every (head, position inside the head), shape (kv, d).
    """

    index: np.ndarray


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention layer.

    Attributes:
        match: the pattern's parts.
        query, key, value: where the operands come from; (h, d), (kv, d), (kv, d). Queries or keys
            may have a part that comes from another linear map (DeepSeek-V2), which is not here.
        output: the linear map after the heads; ``index`` is its input channel per (h, d). It may
            read other channels too (ConvBERT).
        kv_of: kv head that each query head reads, shape (h,).
    """

    match: Match
    query: Projection
    key: Projection | Given
    value: Projection | Given
    output: Projection
    kv_of: np.ndarray
    residual: Residual | None

    def canonical(self, axes: Sequence[Axis] | None, part: str) -> list[Axis]:
        """Return the axes of an operand in the order (.., heads, positions, inside the head)."""
        return [axes[i] for i in operand_order(self.match, part, len(axes))] if axes else []

    @property
    def linears(self) -> list[Linear]:
        """Return the linear maps of the layer, in the order query, key, value, output."""
        parts = (self.query, self.key, self.value, self.output)
        return [part.linear for part in parts if isinstance(part, Projection)]

    @property
    def heads(self) -> int:
        """Return the number of query heads."""
        return len(self.query.index)

    @property
    def kv_heads(self) -> int:
        """Return the number of key-value heads."""
        return len(self.key.index)


@dataclass(frozen=True, slots=True)
class _Search:
    graph: Graph
    shapes: ShapeTable
    tracer: Tracer
    readers: Mapping[str, Linear]


def find_attention(
    graph: Graph, shapes: ShapeTable, linears: Sequence[Linear], matches: Sequence[Match]
) -> tuple[list[Attention], list[NearMiss]]:
    """Return the attention layers behind pattern matches, and those whose weights got lost."""
    readers = {linear.input: linear for linear in reversed(linears)}
    search = _Search(graph, shapes, Tracer(graph, shapes, by_output(linears)), readers)
    found: list[Attention] = []
    missed: list[NearMiss] = []
    for match in matches:
        layer = _attention(search, match)
        if isinstance(layer, Attention):
            found.append(layer)
        else:
            missed.append(NearMiss("attention", match.node, layer))
    return found, missed


def _attention(search: _Search, match: Match) -> Attention | str:
    tables: dict[str, tuple[Linear | None, np.ndarray]] = {}
    for part in ("query", "key", "value"):
        table = _head_table(search, match, part)
        if table is None:
            return f"the {part} operand could not be followed to a linear map"
        tables[part] = table
    if tables["query"][0] is None:
        return "the query operand is an input of the graph"
    query = distinct_rows(tables["query"][1])
    head_of = _numbers(tables["query"][1], query)
    output = _output_table(search, match, head_of)
    if output is None:
        return "the attention output could not be followed to a linear map"
    key = distinct_rows(tables["key"][1])
    value = distinct_rows(tables["value"][1])
    if len(query) % len(key) or len(key) != len(value):
        return "query, key and value heads do not fit together"
    return Attention(
        match=match,
        query=Projection(tables["query"][0], query),
        key=_operand(tables["key"][0], key),
        value=_operand(tables["value"][0], value),
        output=Projection(output[0], output[1]),
        kv_of=_kv_of(_numbers(tables["key"][1], key), head_of),
        residual=find_residual(search.graph, search.shapes, output[0].output, output[0].gives[-1]),
    )


def _operand(linear: Linear | None, index: np.ndarray) -> Projection | Given:
    return Given(index) if linear is None else Projection(linear, index)


def operand_order(match: Match, part: str, rank: int) -> list[int]:
    """Return the axes of an operand in the order (.., heads, positions, inside the head).

    A pattern says which they are where it is not the usual order (``query_order`` and so on), or
    that the last two are ``transposed``.
    """
    given = match.facts.get(f"{part}_order")
    if given is not None:
        return [int(i) for i in given.split(",")]
    order = list(range(rank))
    if match.facts.get(f"{part}_layout") == "transposed":
        order[-2:] = order[:-3:-1]
    return order


def _head_table(
    search: _Search, match: Match, part: str
) -> tuple[Linear | None, np.ndarray] | None:
    """Return the linear map behind an operand and its channels per (batch x head, d).

    Keys and values that the graph is given have no linear map; their channels are numbered.
    """
    value = match.parts[part]
    found = search.tracer.trace(value)
    table = found.table if found else given_numbers(search.graph, search.shapes, value)
    if table is None or table.ndim < 3:
        return None
    table = table.transpose(operand_order(match, part, table.ndim))
    # The first positions may come from a cache.
    rows = table[..., -1, :].reshape(-1, table.shape[-1])
    # A part of every key may come from another linear map; values are read as a whole.
    inside = (rows != ELSEWHERE).any(axis=0)
    rows = rows[:, inside]
    if (rows == ELSEWHERE).any() or (part == "value" and not inside.all()):
        return None
    return found.linear if found else None, rows


def _numbers(rows: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Return the head of every row of an operand; rows are (batch, heads, windows) in any order."""
    order = {row.tobytes(): i for i, row in enumerate(distinct)}
    return np.array([order[np.ascontiguousarray(row).tobytes()] for row in rows])


def _kv_of(kv_head_of: np.ndarray, head_of: np.ndarray) -> np.ndarray:
    """Return the kv head of every query head, from the heads of the rows of both operands."""
    heads, kv_heads = int(head_of.max()) + 1, int(kv_head_of.max()) + 1
    found = np.repeat(np.arange(kv_heads), heads // kv_heads)
    if len(kv_head_of) == len(head_of):
        found[head_of] = kv_head_of
    return found


def _output_table(
    search: _Search, match: Match, head_of: np.ndarray
) -> tuple[Linear, np.ndarray] | None:
    """Return the output projection and its input channel per (h, d); it may have others too."""
    heads = int(head_of.max()) + 1
    value = match.parts["output"]
    found = target_of(search.graph, value, search.readers)
    shape = search.shapes.shape(value)
    if found is None or shape is None or len(shape) < 3:
        return None
    order = operand_order(match, "output", len(shape))
    linear, steps = found
    size = [shape[i][0] for i in order]
    lead, inner = int(np.prod(size[:-2])), size[-1]
    # The rows are those of the queries, unless these are repeated: then the heads come last.
    rows = head_of if len(head_of) == lead else np.arange(lead) % heads
    numbers = rows[:, None] * inner + np.arange(inner)
    grid = np.broadcast_to(numbers.reshape(*size[:-2], 1, inner), size)
    sent = send(search.shapes, grid.transpose(np.argsort(order)), steps)
    if sent is None:
        return None
    line = channel_line(sent, linear.reads)
    own = np.flatnonzero(line != ELSEWHERE)
    if len(line) != linear.in_width:
        return None
    if not np.array_equal(np.sort(line[own]), np.arange(heads * inner)):
        return None
    return linear, own[np.argsort(line[own])].reshape(heads, inner)


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
