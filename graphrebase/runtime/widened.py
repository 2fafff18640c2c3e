"""A bfloat16 model as a float32 one, for a runtime that has no kernels for bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

_NARROW, _WIDE = TensorProto.BFLOAT16, TensorProto.FLOAT
#: A protobuf message cannot be larger; a model above it is not widened.
_LIMIT = (1 << 31) - (1 << 24)
#: Attributes that hold the type of a result.
_TYPES = frozenset({"to", "dtype", "stash_type", "output_dtype", "softmax_precision"})


def widened(model: Path | bytes) -> bytes | None:
    """Return a model with float32 wherever it has bfloat16, inputs and outputs included.

    Every bfloat16 is a float32, so the weights keep their values; results are rounded less.

    Args:
        model: a file, with its external data beside it, or a serialized model.

    Returns:
        The serialized model, or None where it has no bfloat16 or would be too large.
    """
    try:
        proto = onnx.load(str(model)) if isinstance(model, Path) else onnx.load_from_string(model)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError):
        return None
    graphs = [*_graphs(proto.graph), *(g for f in proto.functions for g in _bodies(f.node))]
    changed = any([_widen_graph(graph) for graph in graphs])
    changed |= any([_widen_nodes(function.node) for function in proto.functions])
    if not changed or proto.ByteSize() > _LIMIT:
        return None
    return proto.SerializeToString()


def _graphs(graph: GraphProto) -> Iterable[GraphProto]:
    yield graph
    yield from _bodies(graph.node)


def _bodies(nodes: Iterable[NodeProto]) -> Iterable[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(body)


def _widen_graph(graph: GraphProto) -> bool:
    changed = [_widen_tensor(tensor) for tensor in graph.initializer]
    changed += [_widen_tensor(sparse.values) for sparse in graph.sparse_initializer]
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == _NARROW:
            value.type.tensor_type.elem_type = _WIDE
            changed.append(True)
    return any([*changed, _widen_nodes(graph.node)])


def _widen_nodes(nodes: Iterable[NodeProto]) -> bool:
    return any([_widen_attribute(a) for node in nodes for a in node.attribute])


def _widen_attribute(attribute: AttributeProto) -> bool:
    if attribute.type == AttributeProto.TENSOR:
        return _widen_tensor(attribute.t)
    if attribute.type == AttributeProto.TENSORS:
        return any([_widen_tensor(tensor) for tensor in attribute.tensors])
    if attribute.name in _TYPES and attribute.i == _NARROW:
        attribute.i = _WIDE
        return True
    return False


def _widen_tensor(tensor: TensorProto) -> bool:
    if tensor.data_type != _NARROW:
        return False
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True
