"""Bodies of attention operators: all become Attention (opset 23) on (B, h, S, d).

Inner linear maps, biases, splits into heads and rotations stand before it as operators of their
own. Masks that count tokens (lengths, packed offsets) depend on the order of the tokens as causal
masks do; ``is_causal`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import numpy_helper

from graphrebase.graph.bodies.heads import merge_heads, pick, split_heads
from graphrebase.graph.bodies.position import rotate
from graphrebase.graph.bodies.table import Call, CannotExpand, KeepAsIs, body

_SCORES = ("is_causal", "scale", "softcap", "qk_matmul_output_mode")


@dataclass(frozen=True, slots=True)
class Operands:
    """What Attention reads: q (B, h, S, d), k (B, kv, T, d), v (B, kv, T, e), the rest optional.

    Attributes:
        mask: added to the scores, broadcast to (B, h, S, T).
        past: keys and values of tokens before.
        ordered: the order of the tokens matters.
    """

    query: str
    key: str
    value: str
    mask: str = ""
    past: Sequence[str] = ("", "")
    ordered: bool = False


def attend(call: Call, operands: Operands, present: Sequence[str] = ("", "")) -> str:
    """Add the Attention operator; returns its output (B, h, S, e).

    Args:
        call: the call.
        operands: what it reads.
        present: names of the keys and values of all tokens, ``""`` where nobody reads them.
    """
    inputs = [operands.query, operands.key, operands.value, operands.mask, *operands.past]
    while not inputs[-1]:
        inputs.pop()
    outputs = call.fresh(1)
    if any(operands.past):
        outputs += [name or call.fresh(1)[0] for name in present] if any(present) else []
    else:  # there is nothing to join
        for value, name in zip((operands.key, operands.value), present, strict=True):
            if name:
                call.emit("Identity", value, out=name)
    return call.emit_many("Attention", inputs, outputs, is_causal=int(operands.ordered))[0]


@body("Attention", domain="")
def packed_heads(call: Call) -> None:
    """Attention on (B, S, h * d) is the same on (B, h, S, d)."""
    if call.rank(call.input(0)) == 4:
        raise KeepAsIs
    query_heads, kv_heads = call.number("q_num_heads"), call.number("kv_num_heads")
    operands = [
        split_heads(call, call.input(position), count)
        for position, count in ((0, query_heads), (1, kv_heads), (2, kv_heads))
    ]
    inputs = [*operands, *call.node.inputs[3:]]
    outputs = [call.fresh(1)[0], *call.node.outputs[1:]]
    kept = {name: call.attribute(name) for name in _SCORES}
    call.emit_many("Attention", inputs, outputs, **kept)
    merge_heads(call, outputs[0], call.output(0))


@body("Attention")
def contributed_attention(call: Call) -> None:
    """Project to packed q, k, v with weights of its own, then attend."""
    if call.attribute("do_rotary", 0):
        raise CannotExpand("com.microsoft Attention that rotates by itself")
    heads = call.number("num_heads")
    packed = call.emit("MatMul", call.input(0), call.input(1))
    if call.optional(2):
        packed = call.emit("Add", packed, call.input(2))
    sizes = call.attribute("qkv_hidden_sizes")
    parts = [split_heads(call, part, heads) for part in call.split(packed, sizes, 3, -1)]
    past: Sequence[str] = ("", "")
    if call.optional(4):
        past = pick(call, call.input(4), 0, 0), pick(call, call.input(4), 1, 0)
    operands = Operands(parts[0], parts[1], parts[2], call.optional(5), past)
    operands = masked(call, operands, call.optional(3))
    if call.attribute("unidirectional", 0) or call.optional(6):
        operands = replace(operands, ordered=True)
    present = call.fresh(2) if call.wants(1) else ["", ""]
    output = attend(call, operands, present)
    if call.wants(1):
        stacked = [call.emit("Unsqueeze", name, call.ints(0)) for name in present]
        call.emit("Concat", *stacked, out=call.output(1), axis=0)
    merge_heads(call, output, call.output(0))


def masked(call: Call, operands: Operands, mask: str) -> Operands:
    """Return the operands with a padding mask of onnxruntime: (B, T), (B, S, T) or lengths."""
    if not mask:
        return operands
    rank = call.rank(mask)
    if rank not in (2, 3):
        return replace(operands, ordered=True)
    raw = call.emit("Cast", mask, to=call.types[operands_type(call)][0])
    axes = call.ints(1, 2) if rank == 2 else call.ints(1)
    shaped = call.emit("Unsqueeze", raw, axes)
    added = call.emit("Add", operands.mask, shaped) if operands.mask else shaped
    return replace(operands, mask=added)


def operands_type(call: Call) -> str:
    """Return the input whose element type the scores have."""
    name = call.input(0)
    if name not in call.types:
        raise CannotExpand(f"an input of {call.node.op_type} has an unknown shape")
    return name


@body("MultiHeadAttention")
def multi_head_attention(call: Call) -> None:
    """Attend on q, k, v that are separate or packed, with the biases of their projections."""
    heads = call.number("num_heads")
    operands = _with_bias(call, heads, call.optional(3))
    past = call.optional(6), call.optional(7)
    operands = replace(operands, mask=call.optional(5), past=past)
    operands = masked(call, operands, call.optional(4))
    ordered = bool(call.attribute("unidirectional", 0) or call.optional(8) or call.optional(9))
    _finish(call, replace(operands, ordered=ordered or operands.ordered))


@body("DecoderMaskedMultiHeadAttention")
def decoder_attention(call: Call) -> None:
    """One decoding step of MultiHeadAttention."""
    operands = _with_bias(call, call.number("num_heads"), call.optional(10))
    past = call.optional(5), call.optional(6)
    operands = replace(operands, mask=call.optional(4), past=past, ordered=True)
    _finish(call, masked(call, operands, call.optional(3)))


def _finish(call: Call, operands: Operands) -> None:
    present = [call.output(i) if call.wants(i) else "" for i in (1, 2)]
    output = attend(call, operands, present)
    merge_heads(call, output, call.output(0))


def _with_bias(call: Call, heads: int, bias: str) -> Operands:
    """Return the operands as heads, after the biases q|k|v that were fused."""
    query, key, value = call.input(0), call.optional(1), call.optional(2)
    if call.rank(query) == 5 or not key or call.rank(key) == 5:
        if bias:
            raise CannotExpand(f"packed {call.node.op_type} with a bias")
        return _unpacked(call, heads, query, key)
    values = [query, key, value]
    biases: list[str] = ["", "", ""]
    if bias:
        sizes = _bias_sizes(call, heads, call.shape(bias)[-1], values)
        biases = call.split(bias, sizes, 3, 0)
    plain = []
    for name, added in zip(values, biases, strict=True):
        if call.rank(name) == 4:  # keys and values of cross attention, as heads already
            if added:
                added = call.reshape(added, 1, heads, 1, -1)
                name = call.emit("Add", name, added)
            plain.append(name)
            continue
        if added:
            name = call.emit("Add", name, added)
        plain.append(split_heads(call, name, heads))
    return Operands(plain[0], plain[1], plain[2])


def _bias_sizes(call: Call, heads: int, total: int, values: list[str]) -> list[int]:
    sizes = []
    for name in values:
        shape = call.shape(name)
        sizes.append(shape[-1] * (heads if len(shape) == 4 else 1))
    if sum(sizes) != total:
        raise CannotExpand(f"the bias of {call.node.op_type} is not q|k|v")
    return sizes


def _unpacked(call: Call, heads: int, query: str, key: str) -> Operands:
    """Return operands packed as (B, S, h, 3, d), or keys and values as (B, T, h, 2, d)."""
    if not key and call.rank(query) == 5:
        parts = [pick(call, query, i, 3) for i in range(3)]
    elif key and call.rank(key) == 5 and call.rank(query) == 3:
        shaped = call.reshape(query, 0, 0, heads, -1)
        parts = [shaped, *(pick(call, key, i, 3) for i in range(2))]
    else:
        raise CannotExpand(f"a packing of {call.node.op_type} that is not described")
    turned = [call.emit("Transpose", part, perm=[0, 2, 1, 3]) for part in parts]
    return Operands(turned[0], turned[1], turned[2])


@body("GroupQueryAttention")
def group_query_attention(call: Call) -> None:
    """Attend with several query heads per key-value head, rotated inside, with a cache."""
    if call.optional(12) or call.optional(13):
        raise CannotExpand("GroupQueryAttention with a quantized cache")
    heads, kv_heads = call.number("num_heads"), call.number("kv_num_heads")
    query, key, value = call.input(0), call.optional(1), call.optional(2)
    if not key:
        inner = call.shape(query)[-1] // (heads + 2 * kv_heads)
        sizes = [inner * count for count in (heads, kv_heads, kv_heads)]
        query, key, value = call.split(query, sizes, 3, -1)
    counts = (heads, kv_heads, kv_heads)
    parts = [split_heads(call, x, n) for x, n in zip((query, key, value), counts, strict=True)]
    if call.attribute("do_rotary", 0):
        tables = call.input(7), call.input(8)
        places = call.optional(9) or _positions(call)
        parts[:2] = [rotate(call, part, tables, places) for part in parts[:2]]
    past = call.optional(3), call.optional(4)
    mask = _with_sink(call, call.optional(10), call.optional(11), heads)
    _finish(call, Operands(parts[0], parts[1], parts[2], mask, past, ordered=True))


def _positions(call: Call) -> str:
    """Return position ids of shape (B, S); which ones, the rotation does not ask."""
    shape = call.emit("Shape", call.input(0), start=0, end=2)
    zero = numpy_helper.from_array(np.zeros(1, np.int64))
    return call.emit("ConstantOfShape", shape, value=zero)


def _with_sink(call: Call, mask: str, sink: str, heads: int) -> str:
    """Return the mask with one more score per head, which is tied to the head as a bias is."""
    if not sink:
        return mask
    shaped = call.reshape(sink, 1, heads, 1, 1)
    return call.emit("Add", mask, shaped) if mask else shaped
