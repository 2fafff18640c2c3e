"""Static shapes, by inferring every shape twice with different sizes for the dynamic dimensions.

A dimension is a pair: its size under the first and under the second probe. It is static exactly
where both agree, and pairs keep products apart that a single probe would confuse. Shape arithmetic
that the exporter left in the graph (Shape, Gather, Concat, Range ..) is folded under each probe,
so computed Reshape targets and Slice bounds are known, and known to be static or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from graphrebase.graph.contributed import contributed
from graphrebase.graph.fold import MAX_FOLDED, evaluate
from graphrebase.graph.lengths import MOST_DOUBLINGS, doubled, shared, short_inputs
from graphrebase.graph.view import Graph, Node, is_merge

Dim = tuple[int, int]

#: Element type (as in TensorProto) and shape of a value under one probe.
Typed = tuple[int, tuple[int, ...]]

#: Sizes of the dynamic dimensions under the two probes, in order of first appearance. All differ,
#: within a probe and between the probes; small, so that learned position tables are long enough.
PROBES: tuple[Dim, ...] = ((2, 3), (5, 7), (11, 13), (17, 19), (23, 29), (31, 37), (41, 43))

#: Sizes that depend on the branch taken start here, far above all others.
_BRANCHED = 1_000_000

#: Operators whose own schema infers no shape (in some opsets), and one with the same shapes.
_INFERRED_AS = {
    **{"GreaterOrEqual": "Greater", "LessOrEqual": "Less"},
    **{"GroupNormalization": "LayerNormalization", "MeanVarianceNormalization": "Relu"},
}

#: What onnx raises where it cannot infer a node; its outputs are then unknown.
_INFERENCE_ERRORS = (
    RuntimeError,
    KeyError,
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    shape_inference.InferenceError,
)


@dataclass(frozen=True, slots=True)
class ShapeTable:
    """Shapes and folded values of every tensor of a graph.

    Attributes:
        shapes: dimensions as (first probe, second probe); a value without entry is unknown.
        values: folded small arrays under both probes.
    """

    shapes: Mapping[str, tuple[Dim, ...]]
    values: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Return the dimensions of a value, or None where inference failed."""
        return self.shapes.get(name)

    def static_value(self, name: str) -> np.ndarray | None:
        """Return a folded array that does not depend on the dynamic dimensions, else None."""
        pair = self.values.get(name)
        if pair is None or not np.array_equal(pair[0], pair[1]):
            return None
        return pair[0]


def is_static(dim: Dim) -> bool:
    """Tell whether a dimension has one size under both probes."""
    return dim[0] == dim[1]


@dataclass(slots=True)
class Probe:
    """What one probe knows: element type and shape of each value, and the folded arrays.

    Attributes:
        graph: the graph, for its inputs, constants and opset.
        types: (element type, shape) by value.
        values: folded small arrays by value.
        cache: inferred results of calls, which layers repeat; may be shared by probes.
        which: 0 or 1, the first or second probe.
        branched: how many sizes met so far depend on the branch that an If takes.
    """

    graph: Graph
    types: dict[str, Typed]
    values: dict[str, np.ndarray]
    cache: dict[object, list[Typed | None]]
    which: int = 0
    branched: int = 0

    @classmethod
    def start(
        cls,
        graph: Graph,
        which: int,
        cache: dict[object, list[Typed | None]],
        dims: Mapping[str, tuple[Dim, ...]] | None = None,
    ) -> Probe:
        """Return what is known before the first node, at the first (0) or second (1) sizes.

        Args:
            graph: the graph.
            which: 0 or 1.
            cache: inferred results of calls.
            dims: sizes of the inputs, those of ``input_dims`` if not given.
        """
        probe = cls(graph, {}, {}, cache, which)
        for name, sizes in (input_dims(graph) if dims is None else dims).items():
            element = graph.inputs[name].type.tensor_type.elem_type
            probe.types[name] = (element, tuple(d[which] for d in sizes))
        for name, ref in graph.constants.items():
            probe.types[name] = (helper.np_dtype_to_tensor_dtype(ref.dtype), ref.shape)
            if _foldable(ref.dtype, ref.shape):
                probe.values[name] = ref.load()
        for name, value in graph.literals.items():
            probe.know(name, value)
        return probe

    def know(self, name: str, value: np.ndarray) -> None:
        """Record a known array."""
        self.types[name] = (helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        self.values[name] = value

    def visit(self, node: Node) -> None:
        """Infer the outputs of one node."""
        if is_merge(node):
            self._merge(node)
        elif not _fold(node, self):
            _infer(node, self)

    def _merge(self, node: Node) -> None:
        """Join the outputs of both branches; a size that they do not share is dynamic."""
        count = len(node.outputs)
        ways = zip(node.inputs[1 : 1 + count], node.inputs[1 + count :], strict=True)
        for output, (then, otherwise) in zip(node.outputs, ways, strict=True):
            one, other = self.types.get(then), self.types.get(otherwise)
            if one is None or other is None or one[0] != other[0]:
                continue
            if len(one[1]) == len(other[1]):
                pairs = zip(one[1], other[1], strict=True)
                sizes = [m if m == n else self._size_of_branch() for m, n in pairs]
                self.types[output] = (one[0], tuple(sizes))

    def _size_of_branch(self) -> int:
        """Return a size that differs between the probes and equals no other."""
        self.branched += 1
        return _BRANCHED + 2 * self.branched + self.which


def infer_shapes(graph: Graph) -> ShapeTable:
    """Return the shapes and folded values of all tensors of ``graph``.

    Where the declared sizes do not fit together (some exporters name every dynamic size apart),
    the sizes that most models share are tried.
    """
    declared = input_dims(graph)
    table = _inferred(graph, declared)
    gaps, common = _gaps(graph, table), shared(declared)
    if not gaps or common == declared:
        return table
    other = _inferred(graph, common)
    return other if _gaps(graph, other) < gaps else table


def _gaps(graph: Graph, table: ShapeTable) -> int:
    """Return how many values of a graph have no known shape."""
    names = (name for node in graph.nodes for name in node.outputs if name)
    return sum(name not in table.shapes for name in names)


def _inferred(graph: Graph, dims: Mapping[str, tuple[Dim, ...]]) -> ShapeTable:
    """Return the shapes of a graph whose inputs have these sizes, or multiples of them."""
    cache: dict[object, list[Typed | None]] = {}
    for _ in range(MOST_DOUBLINGS):
        first, second = (_probed(graph, which, cache, dims) for which in (0, 1))
        sizes = [{n: shape for n, (_, shape) in probe.types.items()} for probe in (first, second)]
        short = short_inputs(graph, *sizes)
        if not short:
            break
        dims = doubled(dims, short)
    shapes = {
        name: tuple(zip(shape, second.types[name][1], strict=True))
        for name, (_, shape) in first.types.items()
        if name in second.types and len(shape) == len(second.types[name][1])
    }
    values = {n: (v, second.values[n]) for n, v in first.values.items() if n in second.values}
    return ShapeTable(shapes, values)


def _probed(
    graph: Graph,
    which: int,
    cache: dict[object, list[Typed | None]],
    dims: Mapping[str, tuple[Dim, ...]],
) -> Probe:
    probe = Probe.start(graph, which, cache, dims)
    for node in graph.nodes:
        probe.visit(node)
    return probe


def input_dims(graph: Graph) -> dict[str, tuple[Dim, ...]]:
    """Return the probe sizes of every graph input; equal symbols get equal sizes.

    A symbol that is a sum of others ("past_length + length", as optimum writes) is evaluated.
    """
    sizes: dict[str, Dim] = {}
    found: dict[str, list[str | int]] = {}
    for name, value in graph.inputs.items():
        dims = value.type.tensor_type.shape.dim
        found[name] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"{name}.{i}"
            for i, d in enumerate(dims)
        ]
    symbols = [d for dims in found.values() for d in dims if isinstance(d, str)]
    for symbol in sorted(dict.fromkeys(symbols), key=lambda s: "+" in s):
        terms = [t.strip() for t in re.split(r"\+", symbol)]
        if len(terms) > 1 and all(t in sizes or t.isdigit() for t in terms):
            pairs = [sizes.get(t) or (int(t), int(t)) for t in terms]
            sizes[symbol] = (sum(p[0] for p in pairs), sum(p[1] for p in pairs))
        else:
            spare = [p for p in PROBES if p not in sizes.values()]
            last = PROBES[-1][0] + 2 * len(sizes)
            sizes[symbol] = spare[0] if spare else (last, last + 1)
    return {
        name: tuple(sizes[d] if isinstance(d, str) else (d, d) for d in dims)
        for name, dims in found.items()
    }


def _foldable(dtype: np.dtype, shape: Sequence[int]) -> bool:
    size = int(np.prod(shape, dtype=np.int64))
    integral = dtype.kind in "iub"
    return size <= (MAX_FOLDED if integral else 16)


def _fold(node: Node, known: Probe) -> bool:
    """Compute a node whose inputs are known arrays; returns whether it could."""
    if node.domain:
        return False
    if node.op_type in ("Shape", "Size"):
        if node.inputs[0] not in known.types:
            return False
        shape = np.array(known.types[node.inputs[0]][1], np.int64)
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        result = shape[start:end] if node.op_type == "Shape" else np.array(shape.prod())
        _record(node, [result], known)
        return True
    if any(name and name not in known.values for name in node.inputs) or not node.inputs:
        return False
    inputs = [known.values[name] if name else None for name in node.inputs]
    results = evaluate(node.op_type, inputs, dict(node.attributes), len(node.outputs))
    if results is None:
        return False
    _record(node, list(results), known)
    return True


def _record(node: Node, results: list[np.ndarray], known: Probe) -> None:
    for name, value in zip(node.outputs, results, strict=False):
        if name:
            known.know(name, value)


def _infer(node: Node, known: Probe) -> None:
    if any(name and name not in known.types for name in node.inputs):
        return
    inputs = [known.types[name] if name else None for name in node.inputs]
    data = {i: known.values[n] for i, n in enumerate(node.inputs) if n in known.values}
    key = (
        node.op_type,
        node.domain,
        tuple(inputs),
        tuple((i, v.tobytes()) for i, v in data.items()),
        tuple(a.SerializeToString() for a in node.proto.attribute if a.name != "value"),
        len(node.outputs),
    )
    if key not in known.cache:
        if node.domain:
            known.cache[key] = contributed(node, inputs)
        else:
            known.cache[key] = _standard(node, inputs, data, node.opset or known.graph.opset)
    for name, result in zip(node.outputs, known.cache[key], strict=False):
        if name and result is not None:
            known.types[name] = result


def _standard(
    node: Node, inputs: Sequence[Typed | None], data: Mapping[int, np.ndarray], opset: int
) -> list[Typed | None]:
    """Infer with the operator's own inference function in onnx, where it has one.

    Exporters use bfloat16 in operator sets that do not allow it yet: then it is taken for float32.
    """
    found = _by_schema(node, inputs, data, opset)
    narrow = [typed is not None and typed[0] == TensorProto.BFLOAT16 for typed in inputs]
    if any(result is not None for result in found) or not any(narrow):
        return found
    wide = [
        (TensorProto.FLOAT, typed[1]) if typed and is_narrow else typed
        for typed, is_narrow in zip(inputs, narrow, strict=True)
    ]
    rest = {i: value for i, value in data.items() if not narrow[i]}
    return [
        (TensorProto.BFLOAT16, typed[1]) if typed and typed[0] == TensorProto.FLOAT else typed
        for typed in _by_schema(node, wide, rest, opset)
    ]


def _by_schema(
    node: Node, inputs: Sequence[Typed | None], data: Mapping[int, np.ndarray], opset: int
) -> list[Typed | None]:
    try:
        op_type = _INFERRED_AS.get(node.op_type, node.op_type)
        schema = onnx.defs.get_schema(op_type, opset, node.domain)
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        proto.ClearField("input")
        proto.input.extend(f"i{k}" if typed else "" for k, typed in enumerate(inputs))
        proto.ClearField("output")
        proto.output.extend(f"o{k}" if name else "" for k, name in enumerate(node.outputs))
        types = {
            f"i{k}": helper.make_tensor_type_proto(typed[0], typed[1])
            for k, typed in enumerate(inputs)
            if typed
        }
        arrays = {f"i{k}": _tensor(v) for k, v in data.items()}
        inferred = shape_inference.infer_node_outputs(
            schema, proto, types, arrays, opset_imports=[helper.make_opsetid("", opset)]
        )
    except _INFERENCE_ERRORS:
        return [None] * len(node.outputs)
    return [_typed(inferred.get(f"o{k}")) for k in range(len(node.outputs))]


def _tensor(value: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))


def _typed(inferred: onnx.TypeProto | None) -> Typed | None:
    if inferred is None or not inferred.tensor_type.HasField("shape"):
        return None
    dims = inferred.tensor_type.shape.dim
    if not all(d.HasField("dim_value") for d in dims):
        return None
    return inferred.tensor_type.elem_type, tuple(d.dim_value for d in dims)
