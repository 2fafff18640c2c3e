"""Bodies of rotary embeddings and relative position biases."""

from __future__ import annotations

from graphrebase.graph.bodies.heads import merge_heads, split_heads
from graphrebase.graph.bodies.table import Call, CannotExpand, KeepAsIs, body


def rotate(
    call: Call, value: str, tables: tuple[str, str], places: str, out: str = "", width: int = 0
) -> str:
    """Add RotaryEmbedding on (B, h, S, d).

    Args:
        call: the call.
        value: what is rotated.
        tables: cosine and sine.
        places: position ids, ``""`` where the tables are picked already.
        out: name of the result.
        width: positions inside a head that rotate, 0 for all.
    """
    inputs = [value, *tables, places] if places else [value, *tables]
    return call.emit(
        "RotaryEmbedding", *inputs, out=out,
        interleaved=call.attribute("interleaved", call.attribute("rotary_interleaved", 0)),
        rotary_embedding_dim=width,
    )  # fmt: skip


@body("RotaryEmbedding", domain="")
def rotary_embedding(call: Call) -> None:
    """Bring packed heads to (B, h, S, d)."""
    if call.rank(call.input(0)) == 4:
        raise KeepAsIs
    _rotary(call, (call.input(1), call.input(2)), call.optional(3), call.number("num_heads"))


@body("RotaryEmbedding")
def contributed_rotary_embedding(call: Call) -> None:
    """The same with the position ids second; the number of heads may follow from the tables."""
    tables = call.input(2), call.input(3)
    heads = call.attribute("num_heads", 0)
    value = call.input(0)
    if call.rank(value) == 3 and not heads:
        inner = 2 * call.shape(tables[0])[-1]
        heads, rest = divmod(call.shape(value)[-1], inner)
        if rest or call.attribute("rotary_embedding_dim", 0):
            raise CannotExpand("RotaryEmbedding without num_heads")
    _rotary(call, tables, call.input(1), heads)


def _rotary(call: Call, tables: tuple[str, str], places: str, heads: int) -> None:
    value, out = call.input(0), call.output(0)
    width = call.attribute("rotary_embedding_dim", 0)
    if call.rank(value) == 4:
        rotate(call, value, tables, places, out, width)
        return
    rotated = rotate(call, split_heads(call, value, heads), tables, places, width=width)
    merge_heads(call, rotated, out)


@body("RelativePositionBias")
def relative_position_bias(call: Call) -> None:
    """Look up a bias per head in a table that is stored head by head, although its shape is not.

    The bucket of a distance is not computed: which rows are looked up depends on both positions.
    """
    buckets, heads = call.shape(call.input(0))
    table = call.reshape(call.input(0), heads, buckets)
    rows, columns = (_range(call, call.input(position)) for position in (1, 2))
    distance = call.emit("Sub", columns, call.emit("Unsqueeze", rows, call.ints(1)))
    bias = call.emit("Gather", table, distance, axis=1)
    call.emit("Unsqueeze", bias, call.ints(0), out=call.output(0))


def _range(call: Call, length: str) -> str:
    zero, one = (call.emit("Squeeze", call.ints(n)) for n in (0, 1))
    scalar = call.emit("Squeeze", length) if call.rank(length) else length
    return call.emit("Range", zero, scalar, one)


@body("GatedRelativePositionBias")
def gated_relative_position_bias(call: Call) -> None:
    """Gate a relative position bias by two sums of features of the query (WavLM)."""
    if call.optional(6):
        raise CannotExpand("GatedRelativePositionBias of packed tokens")
    heads = call.number("num_heads")
    query = call.emit("Add", call.input(0), call.input(1))
    projected = call.emit("MatMul", split_heads(call, query, heads), call.input(3))
    projected = call.emit("Add", projected, call.input(4))
    width = call.shape(call.input(4))[-1]
    halves = call.reshape(projected, 0, 0, 0, 2, width // 2)
    gates = call.emit("Sigmoid", call.emit("ReduceSum", halves, call.ints(-1), keepdims=0))
    update, reset = call.split(gates, None, 2, -1)
    one = call.scalar(1.0, call.input(0))
    inner = call.emit("Sub", call.emit("Mul", reset, call.input(5)), one)
    gate = call.emit("Add", call.emit("Mul", update, inner), call.scalar(2.0, call.input(0)))
    call.emit("Mul", gate, call.input(2), out=call.output(0))
