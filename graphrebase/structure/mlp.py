"""MLPs: a linear map that reads an activation of one linear map, or of two (gated)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.structure.linear import Linear, by_output
from graphrebase.structure.residual import Residual, find_residual
from graphrebase.structure.trace import channel_line, channels, send

_NONLINEAR = {
    *("Abs", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Log", "Max", "Min", "Mish", "PRelu", "Relu", "Selu", "Sigmoid", "Sin"),
    *("Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"),
}
#: What they give is read beside the units themselves.
_STATISTICS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
_STRUCTURAL = {"Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
#: Operators an activation function may consist of.
_ACTIVATION = {
    *_NONLINEAR,
    *_STRUCTURAL,
    *("Add", "Cast", "Div", "Dropout", "Expand", "Greater", "Less", "Mul", "Neg", "Pow"),
    *("Reciprocal", "Sqrt", "Sub", "Where"),
    # EVA normalises the hidden units, ConvNeXt V2 weighs them by their size over all positions.
    *("LayerNormalization", "RMSNormalization", *_STATISTICS),
}
#: Longest chain of nodes between two linear maps.
_LIMIT = 24


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
    def experts(self) -> int:
        """Return the number of experts, 1 where the MLP is dense."""
        return self.down.experts

    @property
    def width(self) -> int:
        """Return the number of hidden units."""
        return self.down.in_width


@dataclass(frozen=True, slots=True)
class _Source:
    """Channels of a linear map that an activation reads; ``active``: through a nonlinearity."""

    linear: Linear
    table: np.ndarray
    active: bool

    @property
    def key(self) -> tuple[int, bytes]:
        return id(self.linear), np.unique(self.table).tobytes()


_Sources = dict[tuple[int, bytes], _Source]


@dataclass(slots=True)
class _Search:
    graph: Graph
    shapes: ShapeTable
    outputs: Mapping[str, Linear]
    clipped: Set[str]
    known: dict[str, _Sources | None] = field(default_factory=dict)

    def sources(self, value: str, depth: int = 0) -> _Sources | None:
        """Return what an activation region reads; None where it reads anything else."""
        if value not in self.known:
            self.known[value] = self._sources(value, depth)
        return self.known[value]

    def _sources(self, value: str, depth: int) -> _Sources | None:
        if value in self.outputs:
            linear = self.outputs[value]
            numbers = channels(self.shapes, value, linear.gives, linear.out_width)
            if numbers is None:
                return None
            source = _Source(self.outputs[value], numbers, active=value in self.clipped)
            return {source.key: source}
        node = self.graph.producers.get(value)
        if node is None or depth > _LIMIT or not _keeps_units(self.graph, node):
            return None
        found: _Sources = {}
        for name in dict.fromkeys(node.inputs):
            if not name or self.graph.is_constant(name) or name in self.shapes.values:
                continue
            inner = self.sources(name, depth + 1)
            if inner is None:
                return None
            if node.op_type in _STATISTICS:
                continue  # the units themselves come another way
            for source in inner.values():
                moved = self._moved(node, name, value, source)
                if moved is None:
                    return None
                active = moved.active or (moved.key in found and found[moved.key].active)
                found[moved.key] = _Source(moved.linear, moved.table, active)
        return found

    def _moved(self, node: Node, name: str, value: str, source: _Source) -> _Source | None:
        table = send(self.shapes, source.table, [(node, name, value)])
        if table is None:
            return None
        return _Source(source.linear, table, source.active or node.op_type in _NONLINEAR)


def _as_wide(shapes: ShapeTable, residual: Residual, down: Linear) -> bool:
    """Tell whether all that a linear map gives is added: not shifts and gates of a block (DiT)."""
    stream = shapes.shape(residual.node.outputs[0])
    return stream is not None and stream[residual.channels][0] == down.out_width


def _keeps_units(graph: Graph, node: Node) -> bool:
    """Tell whether a node leaves units apart; a depthwise convolution does (SegFormer)."""
    if node.op_type != "Conv":
        return node.op_type in _ACTIVATION
    weight = graph.constants.get(node.inputs[1])
    return weight is not None and node.attributes.get("group", 1) == weight.shape[0]


def find_mlps(
    graph: Graph,
    shapes: ShapeTable,
    linears: Sequence[Linear],
    taken: Sequence[Linear],
    clipped: Set[str] = frozenset(),
) -> list[Mlp]:
    """Return the MLPs.

    Args:
        graph: the graph.
        shapes: its shapes.
        linears: all linear maps.
        taken: linear maps that belong to attention.
        clipped: values that quantisation clips at zero, as a Relu would.
    """
    search = _Search(graph, shapes, by_output(linears), clipped)
    used = {id(linear) for linear in taken}
    found: list[Mlp] = []
    for down in linears:
        if id(down) in used:
            continue
        residual = find_residual(graph, shapes, down.output, down.gives[-1])
        if residual is None or not _as_wide(shapes, residual, down):
            continue
        mlp = _mlp(search, down, residual, used)
        if mlp is not None:
            found.append(mlp)
    return found


def _mlp(search: _Search, down: Linear, residual: Residual, used: set[int]) -> Mlp | None:
    sources = list((search.sources(down.input) or {}).values())
    active = [s for s in sources if s.active]
    if not active or len(sources) > 2:
        return None
    if any(id(s.linear) in used or s.linear is down for s in sources):
        return None
    if not all(linear.pointwise for linear in (down, *(s.linear for s in sources))):
        return None
    rows = {id(s): channel_line(s.table, down.reads) for s in sources}
    if any(len(line) != down.in_width for line in rows.values()):
        return None
    if len(sources) == 1:
        return Mlp(active[0].linear, rows[id(active[0])], None, None, down, residual)
    gate = active[0]
    up = next(s for s in sources if s is not gate)
    return Mlp(up.linear, rows[id(up)], gate.linear, rows[id(gate)], down, residual)
