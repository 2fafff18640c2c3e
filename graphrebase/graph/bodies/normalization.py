"""Bodies of norms that swallowed a residual connection, a bias or a look-up."""

from __future__ import annotations

from onnx import TensorProto

from graphrebase.graph.bodies.table import Call, body

_CONTRACTIONS = frozenset(
    {"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "QLinearMatMul", "Conv"}
)
_PASSES = frozenset({"Cast", "Dropout", "Mul", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_LIMIT = 6

#: What onnxruntime adds to the variance where a call does not say.
_EPSILON = 1e-12


@body("SkipLayerNormalization")
def skip_layer_norm(call: Call) -> None:
    """LayerNormalization of input + skip + bias; output 3 is the sum."""
    total = _skip_sum(call, call.optional(4))
    outputs = [call.output(0)]
    if call.wants(1) or call.wants(2):
        outputs += [call.output(1), call.output(2)]
    _layer_norm(call, total, call.input(2), call.optional(3), outputs)


@body("SkipSimplifiedLayerNormalization")
def skip_rms_norm(call: Call) -> None:
    """RMSNormalization of input + skip + bias; output 3 is the sum."""
    total = _skip_sum(call, call.optional(3))
    epsilon = call.attribute("epsilon", _EPSILON)
    inputs = total, call.input(2)
    call.emit("RMSNormalization", *inputs, out=call.output(0), axis=-1, epsilon=epsilon)


@body("SimplifiedLayerNormalization", domain="")
def rms_norm(call: Call) -> None:
    """RMSNormalization under the name that onnxruntime gave it before opset 23."""
    kept = {name: call.attribute(name) for name in ("axis", "epsilon")}
    call.emit("RMSNormalization", call.input(0), call.input(1), out=call.output(0), **kept)


@body("EmbedLayerNormalization")
def embed_layer_norm(call: Call) -> None:
    """LayerNormalization of the sum of word, position and segment rows; output 2 is the sum."""
    if call.wants(1):
        counted = call.emit(
            "ReduceSum", call.optional(7) or call.input(0), call.ints(1), keepdims=0
        )
        call.emit("Cast", counted, out=call.output(1), to=TensorProto.INT32)
    words = call.emit("Gather", call.input(2), call.input(0), axis=0)
    places = call.emit("Gather", call.input(3), _places(call), axis=0)
    rows = call.optional(1) and call.optional(4)
    total = call.output(2)
    if not rows:
        call.emit("Add", words, places, out=total)
    else:
        segments = call.emit("Gather", call.input(4), call.input(1), axis=0)
        call.emit("Add", call.emit("Add", words, segments), places, out=total)
    _layer_norm(call, total, call.input(5), call.input(6), [call.output(0)])


def _places(call: Call) -> str:
    """Return the position ids: given, or 0, 1, .. along the tokens."""
    if call.optional(8):
        return call.input(8)
    shape = call.emit("Shape", call.input(0))
    length = call.emit("Squeeze", call.emit("Slice", shape, call.ints(1), call.ints(2)))
    zero = call.emit("Squeeze", call.ints(0))
    one = call.emit("Squeeze", call.ints(1))
    return call.emit("Range", zero, length, one)


def _skip_sum(call: Call, bias: str) -> str:
    """Add input, bias and skip; the bias belongs to the operand that a contraction computes."""
    operands = [call.input(0), call.input(1)]
    total = call.output(3)
    if not bias:
        return call.emit("Add", *operands, out=total)
    contracted = [_is_contracted(call, name) for name in operands]
    if not any(contracted):
        return call.emit("Add", call.emit("Add", *operands), bias, out=total)
    branch = operands.pop(contracted.index(True))
    return call.emit("Add", call.emit("Add", branch, bias), *operands, out=total)


def _is_contracted(call: Call, value: str) -> bool:
    """Tell whether a value is the product of a contraction, reshaped or cast at most."""
    for _ in range(_LIMIT):
        node = call.producers.get(value)
        if node is None or node.op_type in _CONTRACTIONS:
            return node is not None
        if node.op_type not in _PASSES:
            return False
        value = node.inputs[0]
    return False


def _layer_norm(call: Call, value: str, gain: str, bias: str, outputs: list[str]) -> None:
    inputs = [value, gain, bias] if bias else [value, gain]
    epsilon = call.attribute("epsilon", _EPSILON)
    call.emit_many("LayerNormalization", inputs, outputs, axis=-1, epsilon=epsilon)
