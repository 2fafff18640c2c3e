"""Bodies of attention on packed tokens (T, H): samples of a batch one after the other, no padding.

Which tokens belong to one sample is said by offsets, so the order of the tokens matters.
"""

from __future__ import annotations

from graphrebase.graph.bodies.attention import Operands, attend
from graphrebase.graph.bodies.heads import merge_heads, pick, split_heads
from graphrebase.graph.bodies.table import Call, CannotExpand, body


@body("PackedAttention")
def packed_attention(call: Call) -> None:
    """Project (T, H) to packed q, k, v with weights of its own, then attend."""
    packed = call.emit("MatMul", call.input(0), call.input(1))
    packed = call.emit("Add", packed, call.input(2))
    parts = call.split(packed, call.attribute("qkv_hidden_sizes"), 3, -1)
    _attend(call, parts, call.optional(5))


@body("PackedMultiHeadAttention")
def packed_multi_head_attention(call: Call) -> None:
    """Attend on q, k, v (T, h * d) or packed (T, h, 3, d), with the biases of their projections."""
    query, key, value = call.input(0), call.optional(1), call.optional(2)
    bias = call.optional(3)
    if key:
        parts = [query, key, value]
        if bias:
            sizes = [call.shape(part)[-1] for part in parts]
            added = call.split(bias, sizes, 3, 0)
            parts = [call.emit("Add", x, b) for x, b in zip(parts, added, strict=True)]
    elif bias or call.rank(query) != 4:
        raise CannotExpand("a packing of PackedMultiHeadAttention that is not described")
    else:
        parts = [call.reshape(pick(call, query, i, 2), 0, -1) for i in range(3)]
    _attend(call, parts, call.optional(6))


def _attend(call: Call, parts: list[str], bias: str) -> None:
    heads = call.number("num_heads")
    batched = [call.emit("Unsqueeze", part, call.ints(0)) for part in parts]
    mask = ""
    if bias:
        # One score per sample, head and pair of positions: only the heads are known here.
        mask = call.emit("ReduceMean", bias, call.ints(0, 2, 3), keepdims=1)
    query, key, value = (split_heads(call, part, heads) for part in batched)
    output = attend(call, Operands(query, key, value, mask, ordered=True))
    call.emit("Squeeze", merge_heads(call, output, ""), call.ints(0), out=call.output(0))
