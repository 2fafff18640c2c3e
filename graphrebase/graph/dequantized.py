"""A quantised graph as the float graph it stands for, so that one pattern fits both.

Conversions disappear, from one float type to another too (weights stored as bfloat16, parts of a
model in float16), quantised operators become float ones, and so do the chains that dynamic
quantisation writes (DynamicQuantizeLinear, MatMulInteger, Cast, Mul by the scales). Values keep
their names, nodes their index; a weight is read where its numbers are. This view only labels: it
has no scales, so nothing may be computed or proved with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from graphrebase.graph.quantized import FLOATS, float_node, form_of, is_conversion
from graphrebase.graph.view import Graph, Node
from graphrebase.io import TensorRef, is_float

#: Operators whose integer products are cast to float and scaled by what follows them.
_INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})

#: Operators whose result is no float whatever they read.
_NO_FLOAT = frozenset(
    {
        *("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"),
        *("Less", "LessOrEqual", "NonZero", "Not", "Or", "Shape", "Size", "Xor"),
    }
)


@dataclass(slots=True)
class _Rewrite:
    """State of one pass: what each value is called now, which are floats, which only scale others.

    Types are taken from what a node reads: a guess, good enough for labels.
    """

    graph: Graph
    names: dict[str, str]
    floats: set[str]
    scales: set[str]
    products: set[str]
    constants: dict[str, TensorRef]
    nodes: list[Node]

    def resolve(self, node: Node) -> Node:
        return replace(node, inputs=tuple(self.names.get(name, name) for name in node.inputs))

    def alias(self, node: Node, position: int = 0) -> None:
        """Let the first output of a node be its input at ``position``."""
        self.names[node.outputs[0]] = node.inputs[position]


def float_view(graph: Graph) -> Graph:
    """Return the float graph that a quantised one stands for; a float graph is returned itself."""
    state = _Rewrite(graph, {}, _given_floats(graph), set(), set(), dict(graph.constants), [])
    for node in graph.nodes:
        resolved = state.resolve(node)
        _visit(state, resolved)
        if _gives_floats(state, resolved):
            state.floats.update(resolved.outputs)
    if len(state.nodes) == len(graph.nodes) and state.constants == graph.constants:
        unchanged = all(
            a.op_type == b.op_type for a, b in zip(state.nodes, graph.nodes, strict=True)
        )
        if unchanged:
            return graph
    outputs = {name: state.names.get(source, source) for name, source in graph.outputs.items()}
    return replace(graph, nodes=tuple(state.nodes), constants=state.constants, outputs=outputs)


def is_quantized(graph: Graph) -> bool:
    """Tell whether a graph computes with quantised numbers."""
    return any(
        is_conversion(node) or form_of(node) or (node.domain, node.op_type) in _BLOCKWISE
        for node in graph.nodes
    )


def _visit(state: _Rewrite, node: Node) -> None:
    form = form_of(node)
    if is_conversion(node) or _is_float_cast(state, node):
        state.alias(node)
        state.scales.update(filter(None, node.outputs[1:]))
    elif (node.domain, node.op_type) in _BLOCKWISE:
        state.nodes.append(_BLOCKWISE[node.domain, node.op_type](state, node))
    elif form is not None:
        call = float_node(node, form)
        if form.bias >= 0 and node.input(form.bias):
            inputs = (*call.inputs, node.input(form.bias))
            call = replace(call, op_type="Gemm", inputs=inputs)
        state.nodes.append(call)
        if node.op_type in _INTEGER_PRODUCTS:
            state.products.add(node.outputs[0])
    elif not node.domain and _is_scaling(state, node):
        return
    else:
        state.nodes.append(node)


def _given_floats(graph: Graph) -> set[str]:
    """Return the inputs and constants of a graph that hold floats."""
    inputs = (n for n, info in graph.inputs.items() if info.type.tensor_type.elem_type in FLOATS)
    return {*inputs, *(name for name, ref in graph.constants.items() if is_float(ref.dtype))}


def _gives_floats(state: _Rewrite, node: Node) -> bool:
    if node.op_type == "Cast":
        return node.attributes.get("to") in FLOATS
    if is_conversion(node):
        return node.op_type == "DequantizeLinear"
    return node.op_type not in _NO_FLOAT and not state.floats.isdisjoint(node.inputs)


def _is_float_cast(state: _Rewrite, node: Node) -> bool:
    """Tell whether a node casts from one float type to another."""
    cast = node.op_type == "Cast" and not node.domain
    return cast and node.attributes.get("to") in FLOATS and node.inputs[0] in state.floats


def _is_scaling(state: _Rewrite, node: Node) -> bool:
    """Take a node as one that turns integer products to float; tells whether it is one."""
    if node.op_type == "Cast" and node.inputs[0] in state.products:
        state.alias(node)
        return True
    if node.op_type != "Mul":
        return False
    scales = [name in state.scales for name in node.inputs]
    others = [name for name, scale in zip(node.inputs, scales, strict=True) if not scale]
    if any(scales) and all(state.graph.is_constant(name) for name in others):
        state.scales.add(node.outputs[0])
        return True
    if any(scales) and others and others[0] in state.products:
        state.alias(node, node.inputs.index(others[0]))
        return True
    return False


def _nbits(state: _Rewrite, node: Node) -> Node:
    """Return MatMulNBits as the Gemm with a transposed weight (N, K)."""
    size = (node.attributes["N"], node.attributes["K"])
    _reshape(state, node.inputs[1], size)
    inputs = [node.inputs[0], node.inputs[1], node.input(5)]
    kept = tuple(inputs if inputs[2] else inputs[:2])
    return replace(node, op_type="Gemm", domain="", inputs=kept, attributes={"transB": 1})


def _gather_blocks(state: _Rewrite, node: Node) -> Node:
    """Return GatherBlockQuantized as a Gather."""
    ref = state.constants.get(node.inputs[0])
    if ref is not None and ref.dtype.name == "uint8":
        along = node.attributes.get("quantize_axis", 1) % len(ref.shape)
        size = list(ref.shape)
        size[along] *= 8 // node.attributes.get("bits", 4)
        _reshape(state, node.inputs[0], tuple(size))
    rows = node.attributes.get("gather_axis", 0)
    attributes = {"axis": rows}
    return replace(node, op_type="Gather", domain="", inputs=node.inputs[:2], attributes=attributes)


def _reshape(state: _Rewrite, name: str, shape: tuple[int, ...]) -> None:
    """Give a packed weight the shape of the numbers it holds."""
    if name in state.graph.constants:
        state.constants[name] = replace(state.graph.constants[name], shape=shape)


_BLOCKWISE: Mapping[tuple[str, str], Callable[[_Rewrite, Node], Node]] = {
    ("com.microsoft", "GatherBlockQuantized"): _gather_blocks,
    ("com.microsoft", "MatMulNBits"): _nbits,
}
