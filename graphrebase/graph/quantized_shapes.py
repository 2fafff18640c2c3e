"""Shapes of quantised operators that onnx does not define: those of their float operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from graphrebase.graph.view import Node

#: Element type and shape of a value under one probe.
Typed = tuple[int, tuple[int, ...]]
Inputs = Sequence[Typed | None]
ShapeFunction = Callable[[Node, Inputs], list[Typed | None]]

_PACKED = (TensorProto.UINT8, TensorProto.INT8)


def _need(inputs: Inputs, position: int) -> Typed:
    found = inputs[position]
    if found is None:
        raise ValueError("a required input is absent")
    return found


def _like(position: int, typed_by: int | None = None) -> ShapeFunction:
    """Return the function of operators that keep a shape; the type may be another input's."""

    def shape(node: Node, inputs: Inputs) -> list[Typed | None]:
        kind = _need(inputs, position if typed_by is None else typed_by)[0]
        return [(kind, _need(inputs, position)[1])]

    return shape


def _quantize(node: Node, inputs: Inputs) -> list[Typed | None]:
    points = inputs[2] if len(inputs) > 2 else None
    return [(points[0] if points else TensorProto.UINT8, _need(inputs, 0)[1])]


def _broadcast(*operands: int) -> ShapeFunction:
    def shape(node: Node, inputs: Inputs) -> list[Typed | None]:
        found = [_need(inputs, i) for i in operands]
        return [(found[-1][0], np.broadcast_shapes(*(s for _, s in found)))]

    return shape


def _matmul(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *left[-2:-1], *right[-1:])


def _float_matmul(node: Node, inputs: Inputs) -> list[Typed | None]:
    (_, left), (_, right), (kind, _) = (_need(inputs, i) for i in range(3))
    return [(kind, _matmul(left, right))]


def _gemm(node: Node, inputs: Inputs) -> list[Typed | None]:
    (kind, left), (_, right) = _need(inputs, 0), _need(inputs, 3)
    rows = left[1] if node.attributes.get("transA") else left[0]
    columns = right[0] if node.attributes.get("transB") else right[1]
    result = kind if len(inputs) > 8 and inputs[8] else TensorProto.FLOAT
    return [(result, (rows, columns))]


def _concat(node: Node, inputs: Inputs) -> list[Typed | None]:
    shapes = [_need(inputs, i)[1] for i in range(2, len(inputs), 3)]
    axis = node.attributes["axis"] % len(shapes[0])
    total = sum(shape[axis] for shape in shapes)
    return [(_need(inputs, 1)[0], (*shapes[0][:axis], total, *shapes[0][axis + 1 :]))]


def _reduce_mean(node: Node, inputs: Inputs) -> list[Typed | None]:
    kind, shape = _need(inputs, 0)
    axes = {a % len(shape) for a in node.attributes.get("axes", range(len(shape)))}
    keep = node.attributes.get("keepdims", 1)
    kept = [1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes]
    return [(kind, tuple(kept))]


def _global_pool(node: Node, inputs: Inputs) -> list[Typed | None]:
    kind, shape = _need(inputs, 0)
    if node.attributes.get("channels_last"):
        raise ValueError("channels last")
    return [(kind, (*shape[:2], *(1 for _ in shape[2:])))]


def _nbits(node: Node, inputs: Inputs) -> list[Typed | None]:
    kind, shape = _need(inputs, 0)
    return [(kind, (*shape[:-1], node.attributes["N"]))]


def _gather_blocks(node: Node, inputs: Inputs) -> list[Typed | None]:
    (stored, data), (_, indices), (kind, _) = (_need(inputs, i) for i in range(3))
    size = list(data)
    if stored in _PACKED:
        along = node.attributes.get("quantize_axis", 1) % len(data)
        size[along] *= 8 // node.attributes.get("bits", 4)
    rows = node.attributes.get("gather_axis", 0) % len(data)
    return [(kind, (*size[:rows], *indices, *size[rows + 1 :]))]


#: Shape function of every such operator of com.microsoft.
SHAPES: dict[str, ShapeFunction] = {
    "DequantizeLinear": _like(0, typed_by=1),
    "DynamicQuantizeMatMul": _float_matmul,
    "GatherBlockQuantized": _gather_blocks,
    "MatMulIntegerToFloat": _float_matmul,
    "MatMulNBits": _nbits,
    "QGemm": _gemm,
    "QLinearAdd": _broadcast(0, 3),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearLeakyRelu": _like(0),
    "QLinearMul": _broadcast(0, 3),
    "QLinearReduceMean": _reduce_mean,
    "QLinearSigmoid": _like(0),
    "QLinearSoftmax": _like(0),
    "QLinearWhere": _broadcast(0, 1, 4),
    "QuantizeLinear": _quantize,
}
