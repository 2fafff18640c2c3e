"""Types of the outputs of one call: onnx infers them, or a function in ``contributed``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from graphrebase.graph.contributed import Typed, contributed
from graphrebase.graph.view import Node

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


def infer_call(
    node: Node, inputs: Sequence[Typed | None], data: Mapping[int, np.ndarray], opset: int
) -> list[Typed | None]:
    """Return element type and shape of every output of a call, None where they are not known.

    Args:
        node: the call.
        inputs: type of every input, None for an absent one.
        data: known arrays by place.
        opset: version of the standard operators.
    """
    if node.domain:
        return contributed(node, inputs)
    return _standard(node, inputs, data, opset)


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
