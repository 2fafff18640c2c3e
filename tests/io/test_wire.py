"""Laws of walking and splicing messages by byte ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto

from graphrebase.io.wire import (
    Copy,
    Edit,
    Field,
    Piece,
    Slot,
    WireError,
    encode_field,
    encode_varint,
    fields,
    piece_length,
    read_varint,
    splice,
)


def apply(data: bytes, pieces: list[Piece]) -> bytes:
    out = b""
    for piece in pieces:
        if isinstance(piece, Copy):
            out += data[piece.start : piece.end]
        else:
            out += bytes(piece.length) if isinstance(piece, Slot) else piece
    assert len(out) == sum(map(piece_length, pieces))
    return out


def nested(payloads: list[bytes]) -> bytes:
    """Return a ModelProto with one initializer per payload."""
    tensors = [TensorProto(name=f"t{i}", raw_data=raw) for i, raw in enumerate(payloads)]
    return ModelProto(graph=GraphProto(name="g", initializer=tensors)).SerializeToString()


def payload_fields(data: bytes) -> list[tuple[Field, tuple[Field, ...]]]:
    found = []
    for graph in fields(data, 0, len(data)):
        for tensor in fields(data, graph.begin, graph.end):
            if tensor.number == 5:
                for item in fields(data, tensor.begin, tensor.end):
                    if item.number == 9:
                        found.append((item, (graph, tensor)))
    return found


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trip(value: int) -> None:
    data = encode_varint(value)
    assert read_varint(data, 0, len(data)) == (value, len(data))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.data())
def test_splice_resizes_every_enclosing_field(payloads: list[bytes], draw: st.DataObject) -> None:
    data = nested(payloads)
    sizes = st.binary(max_size=300)
    new = [draw.draw(sizes) if draw.draw(st.booleans()) else old for old in payloads]
    edits = [
        Edit(item.start, item.end, encode_field(9, raw), parents)
        for (item, parents), raw in zip(payload_fields(data), new, strict=True)
    ]
    assert apply(data, splice(len(data), edits)) == nested(new)


def test_splice_without_edits_is_identity() -> None:
    data = nested([b"abc"])
    assert splice(len(data), []) == [Copy(0, len(data))]


def test_same_length_keeps_an_oversized_length_prefix() -> None:
    """A writer may pad its varints; they must survive byte for byte."""
    data = b"\x3a\x83\x80\x00" + b"\x12\x01g"
    (graph,) = fields(data, 0, len(data))
    edited = apply(data, splice(len(data), [Edit(6, 7, b"h", (graph,))]))
    assert edited == data[:-1] + b"h"
    grown = apply(data, splice(len(data), [Edit(4, 7, encode_field(2, b"ii"), (graph,))]))
    assert ModelProto.FromString(grown).graph.name == "ii"


def test_slots_and_insertions_keep_their_order() -> None:
    pieces = splice(4, [Edit(2, 2, b"a"), Edit(2, 2, Slot("t", 3)), Edit(2, 3, b"")])
    assert pieces == [Copy(0, 2), b"a", Slot("t", 3), Copy(3, 4)]


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        splice(10, [Edit(0, 5, b""), Edit(4, 6, b"")])


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\x0a\x05ab",
        b"\x0b",
        b"\x0d\x00",
        b"\x00\x00",
        b"\xff" * 11,
        b"\x08" + b"\x80" * 9,
    ],
)
def test_broken_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(fields(data, 0, len(data)))
