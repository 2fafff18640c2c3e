"""Where every tensor lies inside the bytes of an ONNX file, and which bytes hold its payload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from graphrebase.io.scopes import branch_scope
from graphrebase.io.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Data,
    Field,
    WireError,
    fields,
    read_varint,
)

# Deeper nesting than protobuf itself accepts (100 messages) is an attack, not a model.
_MAX_DEPTH = 100
_COUNT_CHUNK = 1 << 20

# Which fields of which message lead to a TensorProto.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# How a typed payload field stores one value (also when not packed), by field number.
_TYPED_WIRE = {
    TensorProto.FLOAT_DATA_FIELD_NUMBER: FIXED32,
    TensorProto.DOUBLE_DATA_FIELD_NUMBER: FIXED64,
    TensorProto.INT32_DATA_FIELD_NUMBER: VARINT,
    TensorProto.INT64_DATA_FIELD_NUMBER: VARINT,
    TensorProto.UINT64_DATA_FIELD_NUMBER: VARINT,
}
_BYTES_PAYLOAD = {TensorProto.STRING_DATA_FIELD_NUMBER, TensorProto.RAW_DATA_FIELD_NUMBER}
RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER

Role = Literal["initializer", "constant", "other"]


@dataclass(frozen=True, slots=True)
class ExternalEntry:
    """One key and value of a tensor's ``external_data``, and the field that holds them."""

    key: str
    value: str
    field: Field


@dataclass(frozen=True, slots=True)
class TensorSite:
    """One TensorProto of the file: what it declares and which byte ranges hold its payload.

    ``name`` is the initializer's own name, or the output of the Constant node (role
    ``constant``), after ``branch_scope`` for those in branches of If; other tensors (attributes,
    loop bodies, sparse parts) have role ``other``.
    ``payload`` are the ranges of all payload fields with their tags, neighbours joined;
    ``block`` is the payload field if it is one contiguous block, and ``count`` the number of
    values in typed fields. Nothing here is validated against ``dims``.
    """

    role: Role
    name: str
    message: Field
    parents: tuple[Field, ...]
    data_type: int
    dims: tuple[int, ...]
    payload: tuple[tuple[int, int], ...]
    payload_fields: frozenset[int]
    block: Field | None
    count: int
    is_external: bool
    external: tuple[ExternalEntry, ...]
    location_field: Field | None

    @property
    def enclosing(self) -> tuple[Field, ...]:
        """Return the fields around the payload, outermost first."""
        return (*self.parents, self.message)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors and the metadata entries of a model file of ``size`` bytes."""

    size: int
    has_graph: bool
    sites: tuple[TensorSite, ...]
    metadata: tuple[tuple[str, Field], ...]


def scan(data: Data) -> Layout:
    """Walk the model file ``data`` and return its layout.

    Raises:
        WireError: it is not a well-formed ModelProto, or it has two graphs.
    """
    size = len(data)
    top = [field for field in fields(data, 0, size) if field.wire == LENGTH]
    graphs = sum(field.number == ModelProto.GRAPH_FIELD_NUMBER for field in top)
    if graphs > 1:
        raise WireError("the model has more than one graph")
    metadata = tuple(
        (_entry(data, field)[0], field)
        for field in top
        if field.number == ModelProto.METADATA_PROPS_FIELD_NUMBER
    )
    sites = tuple(_site(data, path) for path in _tensor_paths(data, "model", 0, size, ()))
    return Layout(size, graphs == 1, sites, metadata)


def _tensor_paths(
    data: Data, kind: str, begin: int, end: int, path: tuple[Field, ...]
) -> Iterator[tuple[Field, ...]]:
    """Yield, for every TensorProto below a message, the fields that lead to it."""
    if len(path) > _MAX_DEPTH:
        raise WireError("messages are nested too deeply")
    children = _CHILDREN[kind]
    for field in fields(data, begin, end):
        child = children.get(field.number) if field.wire == LENGTH else None
        if child == "tensor":
            yield (*path, field)
        elif child:
            yield from _tensor_paths(data, child, field.begin, field.end, (*path, field))


def _role(data: Data, path: tuple[Field, ...]) -> tuple[Role, str, str | None]:
    """Return the role of the tensor at ``path``, its scope and, for a Constant, its output."""
    if path[0].number != ModelProto.GRAPH_FIELD_NUMBER:
        return "other", "", None
    scope, rest = "", path[1:]
    while len(rest) > 3 and rest[2].number == AttributeProto.G_FIELD_NUMBER:
        branch = _branch(data, rest[0], rest[1])
        if branch is None:
            return "other", "", None
        scope, rest = branch_scope(scope, *branch), rest[3:]
    if len(rest) == 1 and rest[0].number == GraphProto.INITIALIZER_FIELD_NUMBER:
        return "initializer", scope, None
    if len(rest) == 3 and rest[0].number == GraphProto.NODE_FIELD_NUMBER:
        output = _constant_output(data, rest[0], rest[1], rest[2])
        if output:
            return "constant", scope, output
    return "other", "", None


def _branch(data: Data, node: Field, attribute: Field) -> tuple[str, str] | None:
    """Return first output and branch name if ``attribute`` is a branch of an ONNX If."""
    if node.number != GraphProto.NODE_FIELD_NUMBER or not _is_operator(data, node, "If"):
        return None
    names = _texts(data, attribute, AttributeProto.NAME_FIELD_NUMBER)
    outputs = _texts(data, node, NodeProto.OUTPUT_FIELD_NUMBER)
    return (outputs[0], names[-1]) if outputs and names else None


def _is_operator(data: Data, node: Field, op_type: str) -> bool:
    domain = _texts(data, node, NodeProto.DOMAIN_FIELD_NUMBER)[-1:]
    return domain in ([], [""], ["ai.onnx"]) and (
        _texts(data, node, NodeProto.OP_TYPE_FIELD_NUMBER)[-1:] == [op_type]
    )


def _constant_output(data: Data, node: Field, attribute: Field, tensor: Field) -> str | None:
    """Return the output of ``node`` if it is an ONNX Constant with ``tensor`` as its value."""
    if tensor.number != AttributeProto.T_FIELD_NUMBER:
        return None
    if _texts(data, attribute, AttributeProto.NAME_FIELD_NUMBER)[-1:] != ["value"]:
        return None
    if not _is_operator(data, node, "Constant"):
        return None
    outputs = _texts(data, node, NodeProto.OUTPUT_FIELD_NUMBER)
    return outputs[0] if outputs else None


def _texts(data: Data, message: Field, number: int) -> list[str]:
    """Return all values of a string field of ``message``."""
    return [
        _text(data, field)
        for field in fields(data, message.begin, message.end)
        if field.number == number and field.wire == LENGTH
    ]


def _text(data: Data, field: Field) -> str:
    try:
        return data[field.begin : field.end].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"text at byte {field.begin} is not UTF-8") from error


def _entry(data: Data, message: Field) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    key = _texts(data, message, 1)[-1:] or [""]
    value = _texts(data, message, 2)[-1:] or [""]
    return key[0], value[0]


def _site(data: Data, path: tuple[Field, ...]) -> TensorSite:
    """Read the TensorProto at the end of ``path``, all but its payload."""
    *parents, message = path
    role, scope, name = _role(data, path)
    own_name = ""
    data_type = 0
    dims: list[int] = []
    payload = _Payload()
    location: Field | None = None
    external = []
    for field in fields(data, message.begin, message.end):
        match field.number, field.wire:
            case TensorProto.DIMS_FIELD_NUMBER, (0 | 2):  # one varint, or packed
                dims += _varints(data, field)
            case TensorProto.DATA_TYPE_FIELD_NUMBER, 0:
                data_type = _varints(data, field)[0]
            case TensorProto.NAME_FIELD_NUMBER, 2:
                own_name = _text(data, field)
            case TensorProto.EXTERNAL_DATA_FIELD_NUMBER, 2:
                external.append(ExternalEntry(*_entry(data, field), field))
            case TensorProto.DATA_LOCATION_FIELD_NUMBER, 0:
                location = field
            case _:
                payload.add(data, field)
    is_external = location is not None and _varints(data, location) == [TensorProto.EXTERNAL]
    return TensorSite(
        role=role,
        name=scope + (own_name if name is None else name),
        message=message,
        parents=tuple(parents),
        data_type=data_type,
        dims=tuple(dims),
        payload=tuple(payload.ranges),
        payload_fields=frozenset(payload.numbers),
        block=payload.block,
        count=payload.count,
        is_external=is_external,
        external=tuple(external),
        location_field=location,
    )


class _Payload:
    """Collects the payload fields of one tensor; old writers emit one field per value."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.numbers: set[int] = set()
        self.block: Field | None = None
        self.count = 0

    def add(self, data: Data, field: Field) -> None:
        """Take ``field`` in if it is a payload field."""
        typed = _TYPED_WIRE.get(field.number)
        if field.wire == LENGTH and (typed is not None or field.number in _BYTES_PAYLOAD):
            self.block = None if self.ranges else field
            self.count += 1 if typed is None else _packed_count(data, field, typed)
        elif typed is not None and field.wire == typed:
            self.block = None
            self.count += 1
        else:
            return
        self.numbers.add(field.number)
        if self.ranges and self.ranges[-1][1] == field.start:
            self.ranges[-1] = (self.ranges[-1][0], field.end)
        else:
            self.ranges.append((field.start, field.end))


def _packed_count(data: Data, field: Field, wire: int) -> int:
    """Return the number of values in a packed field, without decoding them."""
    length = field.end - field.begin
    if wire != VARINT:
        width = 4 if wire == FIXED32 else 8
        if length % width:
            raise WireError(f"packed values at byte {field.begin} are cut short")
        return length // width
    if length and data[field.end - 1] >= 0x80:
        raise WireError(f"packed values at byte {field.begin} are cut short")
    count = 0
    for begin in range(field.begin, field.end, _COUNT_CHUNK):
        chunk = np.frombuffer(data[begin : min(begin + _COUNT_CHUNK, field.end)], np.uint8)
        count += int(np.count_nonzero(chunk < 0x80))
    return count


def _varints(data: Data, field: Field) -> list[int]:
    """Return the signed numbers of a varint field or of a packed field of varints."""
    values = []
    at = field.begin
    while at < field.end:
        value, at = read_varint(data, at, field.end)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values
