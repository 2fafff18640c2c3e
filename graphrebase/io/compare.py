"""What differs between two models besides their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from graphrebase.errors import InputError
from graphrebase.io.reader import ExternalRange, Model
from graphrebase.io.scopes import scoped_graphs

# What names an item of a repeated field, by message type; items of other types go by position.
_KEYS = {
    "TensorProto": ("name",),
    "ValueInfoProto": ("name",),
    "AttributeProto": ("name",),
    "FunctionProto": ("domain", "name", "overload"),
    "OperatorSetIdProto": ("domain",),
    "StringStringEntryProto": ("key",),
    "NodeProto": ("output",),
    "TensorAnnotation": ("tensor_name",),
}
_PAYLOAD = (
    "raw_data",
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)
_SINGLE = (Message, str, bytes, int, float)
# Narrower integers are quantised weights.
_STEERING = ("bool", "int16", "int32", "int64", "uint16", "uint32", "uint64")
_OWN_METADATA = "graphrebase"


def structure_difference(a: Model, b: Model) -> list[str]:
    """Return one line per difference between ``a`` and ``b``, none if only weights differ.

    Compared are the graph, its inputs and outputs, nodes, attributes, operator sets, functions,
    doc strings, metadata, and name, type and shape of every tensor. Left out are the payloads of
    float and 8-bit initializers and Constants of the main graph and of If branches, names and
    offsets of external data, and metadata whose key starts with "graphrebase".

    Raises:
        InputError: external data that is not a weight cannot be read.
    """
    first, second = _normal(a), _normal(b)
    lines = list(_message_lines("model", first, second))
    lines += _external_lines(a, b)
    lines += _constant_lines(a, b)
    if not lines and _bytes(first) != _bytes(second):
        lines.append("model: fields unknown to this version of onnx differ")
    return lines


def _bytes(proto: Message) -> bytes:
    return proto.SerializeToString(deterministic=True)


def _normal(model: Model) -> ModelProto:
    """Return a copy of the model's proto without what may differ."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    kept = [e for e in proto.metadata_props if not e.key.startswith(_OWN_METADATA)]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for tensor in _weights(proto, model):
        for field in (*_PAYLOAD, "data_location"):
            tensor.ClearField(field)
    for tensor in _tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
    return proto


def _weights(proto: ModelProto, model: Model) -> Iterator[TensorProto]:
    """Yield the initializers and Constants that ``Model.tensors`` has, those in branches too."""
    for scope, graph in scoped_graphs(proto.graph):
        yield from graph.initializer
        for node in graph.node:
            if (
                node.op_type == "Constant"
                and node.output
                and scope + node.output[0] in model.tensors
            ):
                yield from (item.t for item in node.attribute if item.name == "value")


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Yield every TensorProto below ``message``."""
    if isinstance(message, TensorProto):
        yield message
        return
    for _, value in message.ListFields():
        for item in _items(value):
            if isinstance(item, Message):
                yield from _tensors(item)


def _items(value: Any) -> list[Any]:
    """Return the values of a field, repeated or not."""
    return [value] if isinstance(value, _SINGLE) else list(value)


def _message_lines(where: str, a: Message, b: Message) -> Iterator[str]:
    """Yield the differences of two messages of one type, below ``where``."""
    if _bytes(a) == _bytes(b):
        return
    first = {field.name: value for field, value in a.ListFields()}
    second = {field.name: value for field, value in b.ListFields()}
    for name in sorted(first.keys() | second.keys()):
        yield from _field_lines(f"{where}.{name}", first.get(name), second.get(name))


def _field_lines(where: str, a: Any, b: Any) -> Iterator[str]:
    """Yield the differences of one field; None stands for an absent one."""
    if not isinstance(b if a is None else a, _SINGLE):
        yield from _repeated_lines(where, list(a or ()), list(b or ()))
    elif isinstance(a, Message) and isinstance(b, Message):
        yield from _message_lines(where, a, b)
    elif repr(a) != repr(b):  # NaN equals itself here
        yield f"{where}: {_show(a)} against {_show(b)}"


def _repeated_lines(where: str, a: list[Any], b: list[Any]) -> Iterator[str]:
    """Yield the differences of a repeated field, items matched by key where they have one."""
    first, second = _by_key(a), _by_key(b)
    for key in first:
        if key not in second:
            yield f"{where}[{key}]: only in the first ({_show(first[key])})"
    for key in second:
        if key not in first:
            yield f"{where}[{key}]: only in the second ({_show(second[key])})"
    common = [key for key in first if key in second]
    if common != [key for key in second if key in first]:
        yield f"{where}: the order differs"
    for key in common:
        yield from _field_lines(f"{where}[{key}]", first[key], second[key])


def _by_key(items: Iterable[Any]) -> dict[str, Any]:
    """Return the items by their key or else their position; a repeated key gets a number."""
    keyed: dict[str, Any] = {}
    for index, item in enumerate(items):
        fields = _KEYS.get(type(item).__name__, ()) if isinstance(item, Message) else ()
        values = [getattr(item, field) for field in fields]
        texts = [value if isinstance(value, str) else ",".join(value) for value in values]
        key = ":".join(text for text in texts if text) if fields else str(index)
        keyed[f"{key}#{index}" if key in keyed else key] = item
    return keyed


def _show(value: Any) -> str:
    """Return a value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, Message):
        name = type(value).__name__
        return f"{getattr(value, 'op_type', '')} node".lstrip() if name == "NodeProto" else name
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _external_lines(a: Model, b: Model) -> Iterator[str]:
    """Yield differences of external tensors that are not weights (those of subgraphs)."""
    first = [item for item in a.external if item.site.role == "other"]
    second = [item for item in b.external if item.site.role == "other"]
    for one, other in zip(first, second, strict=False):  # a missing one shows in the graph
        if _digest(one) != _digest(other):
            yield f"external data of {one.site.name!r}: the bytes differ"


def _constant_lines(a: Model, b: Model) -> Iterator[str]:
    """Yield differing constants that steer the graph: indices, bounds, axes, flags."""
    for name in a.tensors.keys() & b.tensors.keys():
        one, other = a.tensors[name], b.tensors[name]
        steering = one.dtype.name in _STEERING and (one.dtype, one.shape) == (
            other.dtype,
            other.shape,
        )
        if steering and not np.array_equal(one.load(), other.load()):
            yield f"constant {name!r}: the values differ, and it is not a weight"


def _digest(item: ExternalRange) -> bytes:
    left = item.storage.length
    digest = hashlib.sha256()
    try:
        with item.storage.file.open("rb") as file:
            file.seek(item.storage.offset)
            while left and (chunk := file.read(min(left, 1 << 20))):
                left -= len(chunk)
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read: {error}", where=str(item.storage.file)) from error
    return digest.digest()
