"""From packed features (B, S, h * d) to heads (B, h, S, d) and back: parts that bodies share."""

from __future__ import annotations

from graphrebase.graph.bodies.table import Call

_SWAP = [0, 2, 1, 3]


def split_heads(call: Call, value: str, heads: int) -> str:
    """Add what brings (B, S, h * d) to (B, h, S, d)."""
    return call.emit("Transpose", call.reshape(value, 0, 0, heads, -1), perm=_SWAP)


def merge_heads(call: Call, value: str, out: str) -> str:
    """Add what brings (B, h, S, d) to (B, S, h * d)."""
    return call.reshape(call.emit("Transpose", value, perm=_SWAP), 0, 0, -1, out=out)


def pick(call: Call, value: str, index: int, axis: int) -> str:
    """Add a look-up of one index of an axis, which goes."""
    scalar = call.emit("Squeeze", call.ints(index))
    return call.emit("Gather", value, scalar, axis=axis)
