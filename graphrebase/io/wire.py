"""The protobuf wire format: walking a message by byte ranges, and editing it by byte ranges.

Nothing here knows ONNX. A message is never parsed as a whole: ``fields`` yields where each field
lies, ``splice`` turns a list of edits into the pieces of the edited message and repairs the length
prefix of every enclosing field, so that all bytes outside the edits stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, overload

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """The bytes are not a well-formed protobuf message."""


class Data(Protocol):
    """Random-access bytes: ``bytes`` or a memory map; slicing copies, so slice small."""

    @overload
    def __getitem__(self, index: int, /) -> int: ...
    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: ``[start, end)`` with its tag, ``[begin, end)`` its value alone.

    ``value_at`` is where the tag ends: the value itself or, for a length-delimited field, the
    length prefix ``[value_at, begin)``.
    """

    number: int
    wire: int
    start: int
    value_at: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A hole of ``length`` bytes, to be filled with the payload of tensor ``name`` on writing."""

    name: str
    length: int

    def __len__(self) -> int:
        """Return the number of bytes the payload will take."""
        return self.length


@dataclass(frozen=True, slots=True)
class Edit:
    """Put ``content`` in place of ``[start, end)``, inside ``parents`` (outermost first)."""

    start: int
    end: int
    content: bytes | Slot
    parents: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """The bytes ``[start, end)`` of the original, unchanged."""

    start: int
    end: int


Piece = Copy | bytes | Slot


def read_varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """Return the unsigned value of the varint at ``at`` and the offset after it.

    Raises:
        WireError: it runs past ``end`` or over ten bytes.
    """
    if at < end and (byte := data[at]) < 0x80:  # nearly all of them
        return byte, at + 1
    value = shift = 0
    for position in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    raise WireError(f"unterminated number at byte {at}")


def fields(data: Data, begin: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message ``data[begin:end]`` in order.

    Raises:
        WireError: the bytes are not a sequence of complete fields.
    """
    at = begin
    while at < end:
        tag, value_at = read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value_begin = value_at
            _, after = read_varint(data, value_at, end)
        elif wire == LENGTH:
            length, value_begin = read_varint(data, value_at, end)
            after = value_begin + length
        elif wire in _FIXED_SIZE:
            value_begin = value_at
            after = value_at + _FIXED_SIZE[wire]
        else:
            raise WireError(f"unknown wire type {wire} at byte {at}")
        if number == 0 or after > end:
            raise WireError(f"field {number} at byte {at} does not fit into its message")
        yield Field(number, wire, at, value_at, value_begin, after)
        at = after


def encode_varint(value: int) -> bytes:
    """Return the shortest varint of a non-negative ``value``."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field with tag, length and ``value``."""
    return field_header(number, len(value)) + value


def field_header(number: int, length: int) -> bytes:
    """Return tag and length prefix of a length-delimited field of ``length`` bytes."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(length)


def splice(size: int, edits: Iterable[Edit]) -> list[Piece]:
    """Return the pieces, in order, of a message of ``size`` bytes after ``edits``.

    A length prefix changes only where the length does, so an edit that keeps its length leaves
    every byte outside its range alone. Edits at one offset keep their order.

    Raises:
        ValueError: two edits overlap.
    """
    edits = list(edits)
    edits += _length_edits(edits)
    pieces: list[Piece] = []
    cursor = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < cursor:
            raise ValueError(f"edits overlap at byte {edit.start}")
        if edit.start > cursor:
            pieces.append(Copy(cursor, edit.start))
        if len(edit.content):
            pieces.append(edit.content)
        cursor = edit.end
    if cursor < size:
        pieces.append(Copy(cursor, size))
    return pieces


def _length_edits(edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits of all length prefixes that ``edits`` make wrong."""
    growth: dict[Field, int] = {}
    above: dict[Field, tuple[Field, ...]] = {}
    for edit in edits:
        for level, parent in enumerate(edit.parents):
            above[parent] = edit.parents[:level]
            growth[parent] = growth.get(parent, 0) + len(edit.content) - (edit.end - edit.start)
    prefixes = []
    # Innermost first: a prefix that gets longer itself grows everything around it.
    for parent in sorted(above, key=lambda field: len(above[field]), reverse=True):
        if not growth[parent]:
            continue
        prefix = encode_varint(parent.end - parent.begin + growth[parent])
        prefixes.append(Edit(parent.value_at, parent.begin, prefix))
        for ancestor in above[parent]:
            growth[ancestor] += len(prefix) - (parent.begin - parent.value_at)
    return prefixes


def piece_length(piece: Piece) -> int:
    """Return the number of bytes of ``piece``."""
    return piece.end - piece.start if isinstance(piece, Copy) else len(piece)
