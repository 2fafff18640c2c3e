"""Bodies of fused operators with quantised weights: these are dequantised, the rest is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from graphrebase.graph.bodies.attention import contributed_attention
from graphrebase.graph.bodies.normalization import embed_layer_norm
from graphrebase.graph.bodies.table import Body, Call, CannotExpand, body


@body("QAttention")
def quantized_attention(call: Call) -> None:
    """Attention with an input and packed weights of 8 bits; scales per column, or one."""
    if call.attribute("do_rotary"):
        raise CannotExpand("QAttention that rotates")
    data = _dequantized(call, 0, 3, 6)
    weight = _dequantized(call, 1, 4, 7)
    inputs = [data, weight, call.input(2), call.optional(5), call.optional(8)]
    _as(call, "Attention", inputs, contributed_attention)


@body("QEmbedLayerNormalization")
def quantized_embed_layer_norm(call: Call) -> None:
    """EmbedLayerNormalization with tables, gain and bias of 8 bits."""
    tables = [_dequantized(call, 2 + k, 8 + k, 13 + k) for k in range(5)]
    inputs = [call.input(0), call.optional(1), *tables, call.optional(7)]
    _as(call, "EmbedLayerNormalization", inputs, embed_layer_norm)


def _dequantized(call: Call, number: int, scale: int, point: int) -> str:
    """Add DequantizeLinear along the last axis; returns its output, ``""`` for an absent input."""
    if not call.optional(number):
        return ""
    value = call.input(number)
    inputs = [value, call.input(scale), *filter(None, [call.optional(point)])]
    return call.emit("DequantizeLinear", *inputs, axis=call.rank(value) - 1)


def _as(call: Call, op_type: str, inputs: Sequence[str], function: Body) -> None:
    """Add the body of the float operator, on values that were just dequantised."""
    types = dict(call.types)
    for part in call.nodes:
        types[part.output[0]] = (TensorProto.FLOAT, call.shape(part.input[0]))
    node = replace(call.node, op_type=op_type, inputs=tuple(inputs))
    function(replace(call, node=node, types=types))
