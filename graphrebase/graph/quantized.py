"""Quantised operators: the float operator each one stands for, and where its numbers come in.

A quantised operator does what a float one does, on integers with scales and zero points beside
them. One table says which operator that is, so that symmetry rules, patterns and shapes need to
know only the float one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphrebase.graph.view import Graph, Node

_MS = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of the float operator, and the parameters that quantise it.

    Attributes:
        position: input position of the operand.
        scale, zero_point: input positions; -1 where it has none.
        channel: axis that a vector of scales or zero points runs along; None forbids vectors.
    """

    position: int
    scale: int = -1
    zero_point: int = -1
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """How a quantised operator stands for a float one.

    Attributes:
        op_type: the float operator.
        operands: its inputs in order.
        result: input positions of scale and zero point of the output.
        bias: input position of a vector that is added to the result's last axis, -1 for none.
    """

    op_type: str
    operands: tuple[Operand, ...]
    result: tuple[int, ...] = ()
    bias: int = -1


def _binary(op_type: str) -> Form:
    return Form(op_type, (Operand(0, 1, 2), Operand(3, 4, 5)), (6, 7))


def _unary(op_type: str) -> Form:
    return Form(op_type, (Operand(0, 1, 2),), (3, 4))


#: Form of every quantised operator with a fixed number of inputs, by (domain, operator).
FORMS: Mapping[tuple[str, str], Form] = {
    ("", "MatMulInteger"): Form("MatMul", (Operand(0, -1, 2, -2), Operand(1, -1, 3, -1))),
    ("", "QLinearMatMul"): Form("MatMul", (Operand(0, 1, 2, -2), Operand(3, 4, 5, -1)), (6, 7)),
    ("", "ConvInteger"): Form("Conv", (Operand(0, -1, 2), Operand(1, -1, 3, 0))),
    ("", "QLinearConv"): Form("Conv", (Operand(0, 1, 2), Operand(3, 4, 5, 0), Operand(8)), (6, 7)),
    (_MS, "QGemm"): Form("Gemm", (Operand(0, 1, 2), Operand(3, 4, 5, 1), Operand(6)), (7, 8)),
    (_MS, "DynamicQuantizeMatMul"): Form("MatMul", (Operand(0), Operand(1, 2, 3, -1)), bias=4),
    (_MS, "MatMulIntegerToFloat"): Form(
        "MatMul", (Operand(0, 2, 4, -2), Operand(1, 3, 5, -1)), bias=6
    ),
    (_MS, "QLinearAdd"): _binary("Add"),
    (_MS, "QLinearMul"): _binary("Mul"),
    (_MS, "QLinearSigmoid"): _unary("Sigmoid"),
    (_MS, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (_MS, "QLinearSoftmax"): _unary("Softmax"),
    (_MS, "QLinearReduceMean"): _unary("ReduceMean"),
    (_MS, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    (_MS, "QLinearWhere"): Form("Where", (Operand(0), Operand(1, 2, 3), Operand(4, 5, 6)), (7, 8)),
}

#: Operators that turn numbers into quantised ones, or back, and keep every axis.
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

#: From this accuracy level on MatMulNBits rounds its input to 8 bits.
_INTEGER_ACCURACY = 4

#: Number of inputs that say how a result is quantised.
_SCALE_AND_POINT = 2

#: Operators with rules of their own: input positions of their numbers, scales and zero points.
_OWN: Mapping[tuple[str, str], tuple[int, int, int]] = {
    ("", "DequantizeLinear"): (0, 1, 2),
    (_MS, "DequantizeLinear"): (0, 1, 2),
    ("", "QuantizeLinear"): (-1, 1, 2),
    (_MS, "QuantizeLinear"): (-1, 1, 2),
    (_MS, "GatherBlockQuantized"): (0, 2, 3),
    (_MS, "MatMulNBits"): (1, 2, 3),
}

#: Operators that hand the values of their first input on, in another order or shape.
_REARRANGING = frozenset(
    {*("Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")}
)

#: Float types of ONNX with at least 16 bits.
FLOATS = frozenset(
    {
        *(onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE),
        *(onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
    }
)


def form_of(node: Node) -> Form | None:
    """Return how a quantised operator stands for a float one, None for any other operator."""
    if (node.domain, node.op_type) == (_MS, "QLinearConcat"):
        count = (len(node.inputs) - 2) // 3
        operands = tuple(Operand(2 + 3 * k, 3 + 3 * k, 4 + 3 * k) for k in range(count))
        return Form("Concat", operands, (0, 1))
    form = FORMS.get((node.domain, node.op_type))
    if form is not None and node.op_type == "QGemm" and node.attributes.get("transB"):
        first, second, *rest = form.operands
        return replace(form, operands=(first, replace(second, channel=0), *rest))
    return form


def float_node(node: Node, form: Form) -> Node:
    """Return the call of the float operator that a quantised one stands for."""
    inputs = [node.input(operand.position) for operand in form.operands]
    while inputs and not inputs[-1]:
        inputs.pop()
    return replace(node, op_type=form.op_type, domain="", inputs=tuple(inputs))


def is_conversion(node: Node) -> bool:
    """Tell whether a node quantises or dequantises a tensor."""
    return node.op_type in CONVERSIONS and node.domain in ("", _MS)


def rounds_activations(graph: onnx.GraphProto) -> bool:
    """Tell whether a graph, or a graph inside it, computes with activations of 8 bits."""
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (domain, node.op_type)
        if key in FORMS or node.op_type in CONVERSIONS or node.op_type == "QLinearConcat":
            return True
        for attribute in node.attribute:
            if attribute.name == "accuracy_level" and attribute.i >= _INTEGER_ACCURACY:
                return True
            bodies = (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
            if any(rounds_activations(body) for body in bodies):
                return True
    return False


def quantized_constants(graph: Graph) -> frozenset[str]:
    """Return the integer constants that hold quantised numbers: weights, biases, zero points.

    An integer constant is one where every use of it, rearranged or not, is an operand or a zero
    point of a quantised operator. Any other use (an index, a shape, a mask) makes it none.
    """
    return frozenset(
        name
        for name, ref in graph.constants.items()
        if ref.dtype.name.startswith(("int", "uint"))
        and _only_numbers(graph, name, ref.dtype.itemsize == 1)
    )


def _only_numbers(graph: Graph, name: str, narrow: bool) -> bool:
    """Tell whether integers are quantised numbers at every use; narrow ones may become floats."""
    users = graph.users(name)
    if not users or name in graph.outputs.values():
        return False
    for slot in users:
        node, position = slot.node, slot.position
        if position in _number_positions(node):
            continue
        if position >= 0 and not node.domain and node.op_type == "Cast":
            if narrow and node.attributes.get("to") in FLOATS:
                continue
            return False
        passes = position == 0 if node.op_type in _REARRANGING else node.op_type == "Concat"
        if not passes or node.domain or position < 0:
            return False
        if not all(_only_numbers(graph, given, narrow) for given in node.outputs if given):
            return False
    return True


def scale_constants(graph: Graph) -> frozenset[str]:
    """Return the constants that are scales or zero points of others, and nothing else."""
    return frozenset(
        name
        for name in graph.constants
        if (users := graph.users(name))
        and all(slot.position in _scale_positions(slot.node) for slot in users)
    )


def clipped_values(graph: Graph) -> frozenset[str]:
    """Return the values whose quantised numbers have no place below zero.

    That is what a Relu does, which quantisers and onnxruntime therefore leave out.
    """
    found = set()
    for node in graph.nodes:
        form = form_of(node)
        if form is not None and len(form.result) == _SCALE_AND_POINT:
            clipped, point = node.outputs[0], node.input(form.result[1])
        elif node.op_type == "QuantizeLinear" and len(graph.users(node.inputs[0])) == 1:
            clipped, point = node.inputs[0], node.input(2)
        else:
            continue
        value = graph.constant_value(point) if point else None
        if value is not None and (value == np.iinfo(value.dtype).min).all():
            found.add(clipped)
    return frozenset(found)


def _scale_positions(node: Node) -> frozenset[int]:
    """Return the input positions of scales and zero points."""
    own = _OWN.get((node.domain, node.op_type))
    if own is not None:
        return frozenset(own[1:])
    form = form_of(node)
    if form is None:
        return frozenset()
    pairs = ((operand.scale, operand.zero_point) for operand in form.operands)
    return frozenset({*form.result, *(p for pair in pairs for p in pair)} - {-1})


def _number_positions(node: Node) -> frozenset[int]:
    """Return the input positions that quantised numbers and their zero points come in at."""
    own = _OWN.get((node.domain, node.op_type))
    if own is not None:
        return frozenset({own[0], own[2]} - {-1})
    form = form_of(node)
    if form is None:
        return frozenset()
    found = {form.bias, *form.result[1:]}
    for operand in form.operands:
        if operand.scale >= 0 or operand.zero_point >= 0 or form.op_type in ("Gemm", "Conv"):
            found |= {operand.position, operand.zero_point}
    return frozenset(found - {-1})
