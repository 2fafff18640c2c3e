"""Opening a model: the ModelProto without its big payloads, and a reference to each tensor."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from graphrebase.errors import InputError
from graphrebase.io import paths
from graphrebase.io.layout import RAW_DATA, Layout, TensorSite, scan
from graphrebase.io.tensors import (
    DTYPES,
    Storage,
    TensorRef,
    is_possible_shape,
    stored_bytes,
    typed_values,
)
from graphrebase.io.wire import Copy, Edit, WireError, encode_field, splice

SMALL_BYTES = 4096
"""Payloads up to this size stay in ``Model.proto``."""

_NOT_ONNX_HINTS = {
    b"version https://git-lfs": "this is a Git LFS pointer: fetch the file with 'git lfs pull'",
    b"PK\x03\x04": "this is a zip archive (a PyTorch checkpoint?): export the model to ONNX",
    b"<": "this looks like a web page: download the file itself",
}
_HINT = "check that the file is a complete ONNX model"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file apart from a later version of itself."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a file with this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ExternalRange:
    """The bytes of one tensor in an external data file; ``location`` as the model spells it."""

    site: TensorSite
    location: str
    storage: Storage


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """An ONNX model on disk, opened without its weights.

    ``proto`` is the ModelProto with every initializer and Constant of the main graph, and of
    branches of If, whose payload is over 4096 bytes stripped to name, type and dims; smaller ones
    have their values, also where the file keeps those in external data. ``tensors`` refers to
    every such initializer (by name) and Constant (by its node's output), in file order; those in
    branches are named by ``branch_scope``. The other fields say where things lie in the files;
    they are for writing.
    """

    path: Path
    proto: onnx.ModelProto
    tensors: Mapping[str, TensorRef]
    layout: Layout
    sites: Mapping[str, TensorSite]
    external: tuple[ExternalRange, ...]
    data_files: Mapping[str, Path]
    stamps: Mapping[Path, Stamp]

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the model file and all its external data files."""
        return (self.path, *sorted(set(self.data_files.values())))

    def sha256(self) -> str:
        """Return the SHA-256 of the model, in hex.

        Without external data it is that of the file. With it, it is the SHA-256 over the digest
        of the model file and, per location in sorted order, its name and its file's digest.

        Raises:
            InputError: a file cannot be read.
        """
        own = _file_digest(self.path)
        if not self.data_files:
            return own.hex()
        files = {paths.normal_location(name): file for name, file in self.data_files.items()}
        whole = hashlib.sha256(own)
        for name, file in sorted(files.items()):
            whole.update(name.encode() + b"\0" + _file_digest(file))
        return whole.hexdigest()


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"cannot read: {error}", where=str(path)) from error


def read_model(path: str | os.PathLike[str]) -> Model:
    """Open the ONNX model at ``path`` without loading its weights.

    The file is mapped and walked; a payload is never copied, and every length in the file is
    checked against the bytes that are there before anything of that size is made.

    Raises:
        InputError: it is missing, not ONNX, damaged, or its external data is missing or unsafe.
    """
    path = Path(path)
    status = paths.regular_file(path, what="the model", hint="check the path")
    if not status.st_size:
        raise InputError("the model file is empty", where=str(path), hint=_HINT)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot open the model: {error}", where=str(path)) from error
    try:
        layout = scan(data)
    except WireError as error:
        raise _not_onnx(path, data[:64], str(error)) from error
    if not layout.has_graph:
        raise _not_onnx(path, data[:64], "it has no graph")
    external, data_files = _external_ranges(path, layout)
    sites = _main_sites(path, layout)
    storages = {id(item.site): item.storage for item in external}
    tensors = {name: _reference(path, site, storages.get(id(site))) for name, site in sites.items()}
    stamps = {path: Stamp.of(status)}
    stamps |= {file: Stamp.of(file.stat()) for file in data_files.values()}
    return Model(
        path=path,
        proto=_skeleton(path, data, layout, sites, tensors),
        tensors=MappingProxyType(tensors),
        layout=layout,
        sites=MappingProxyType(sites),
        external=external,
        data_files=MappingProxyType(data_files),
        stamps=MappingProxyType(stamps),
    )


def _not_onnx(path: Path, head: bytes, reason: str) -> InputError:
    hints = (hint for magic, hint in _NOT_ONNX_HINTS.items() if head.startswith(magic))
    return InputError(
        f"this is not a readable ONNX model: {reason}", where=str(path), hint=next(hints, _HINT)
    )


def _main_sites(path: Path, layout: Layout) -> dict[str, TensorSite]:
    """Return the initializers and Constants of the main graph and of If branches by name."""
    sites: dict[str, TensorSite] = {}
    for site in layout.sites:
        if site.role == "other":
            continue
        if not site.name:
            raise InputError("an initializer has no name", where=str(path), hint=_HINT)
        if site.name in sites:
            raise InputError(
                f"two tensors of the graph are called {site.name!r}",
                where=str(path),
                hint="rename one of them; names of initializers and Constants must be unique",
            )
        sites[site.name] = site
    return sites


def _external_ranges(
    path: Path, layout: Layout
) -> tuple[tuple[ExternalRange, ...], dict[str, Path]]:
    """Return all tensors kept in external data and the files by location."""
    files: dict[str, Path] = {}
    ranges = []
    for site in layout.sites:
        if not site.is_external:
            continue
        keys = {entry.key: entry.value for entry in site.external}
        location = keys.get("location", "")
        if location not in files:
            files[location] = paths.data_file(path, location)
        storage = _external_storage(site, keys, files[location], f"{path}: tensor {site.name!r}")
        ranges.append(ExternalRange(site, location, storage))
    return tuple(ranges), files


def _external_storage(site: TensorSite, keys: Mapping[str, str], file: Path, where: str) -> Storage:
    """Return the range of a tensor in ``file``, checked against the file's size."""
    size = file.stat().st_size
    numbers = {}
    for key in ("offset", "length"):
        text = keys.get(key, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InputError(f"external data {key} {text[:40]!r} is not a number", where=where)
        numbers[key] = int(text) if text else None
    offset = numbers["offset"] or 0
    dtype = DTYPES.get(site.data_type)
    is_sized = dtype is not None and is_possible_shape(site.dims, dtype.itemsize)
    declared = stored_bytes(dtype, math.prod(site.dims)) if dtype is not None and is_sized else None
    length = numbers["length"]
    if length is None:
        length = size - offset if declared is None else declared
    if length < 0 or offset + length > size:
        raise InputError(
            f"external data ends at byte {offset + length}, {file.name!r} has {size}",
            where=where,
            hint="the data file is cut short or belongs to another model: copy it again",
        )
    return Storage(file, offset, length)


def _reference(path: Path, site: TensorSite, external: Storage | None) -> TensorRef:
    """Return the reference to a tensor, its payload checked against type and dims."""
    where = f"{path}: tensor {site.name!r}"
    dtype = DTYPES.get(site.data_type)
    if dtype is None:
        raise InputError(f"unknown tensor type {site.data_type}", where=where, hint=_HINT)
    if not is_possible_shape(site.dims, dtype.itemsize):
        raise InputError(f"impossible shape {list(site.dims)}", where=where, hint=_HINT)
    storage = _inline_storage(path, site, where) if external is None else external
    count = math.prod(site.dims)
    found, expected = storage.length, stored_bytes(dtype, count)
    if dtype.kind == "O" and external is not None:
        raise InputError("strings cannot be external data", where=where)
    if external is None and (RAW_DATA not in site.payload_fields or dtype.kind == "O"):
        number, expected = typed_values(site.data_type, count)
        found = site.count
        if site.payload_fields - {number}:
            raise InputError(f"the payload is not in the field of {dtype}", where=where, hint=_HINT)
    if found != expected:
        raise InputError(
            f"the payload has {found} bytes or values, {dtype} {list(site.dims)} takes {expected}",
            where=where,
            hint="the file is damaged: export or copy it again",
        )
    return TensorRef(site.name, dtype, site.dims, storage)


def _inline_storage(path: Path, site: TensorSite, where: str) -> Storage:
    """Return where the payload lies in the model file itself."""
    if len(site.payload_fields) > 1:
        raise InputError("the tensor has more than one payload", where=where, hint=_HINT)
    if RAW_DATA in site.payload_fields and site.block is None:
        raise InputError("the tensor has raw_data twice", where=where, hint=_HINT)
    if site.block is not None and _is_plain(site):
        return Storage(path, site.block.begin, site.block.end - site.block.begin)
    message = site.message
    return Storage(path, message.begin, message.end - message.begin, is_message=True)


def _is_plain(site: TensorSite) -> bool:
    """Tell whether the payload field holds the elements themselves, as raw_data does."""
    types = onnx.TensorProto
    return (
        RAW_DATA in site.payload_fields
        or (types.FLOAT_DATA_FIELD_NUMBER in site.payload_fields)
        or (types.DOUBLE_DATA_FIELD_NUMBER in site.payload_fields)
    )


def _skeleton(
    path: Path,
    data: mmap.mmap,
    layout: Layout,
    sites: Mapping[str, TensorSite],
    tensors: Mapping[str, TensorRef],
) -> onnx.ModelProto:
    """Return the ModelProto of ``data`` without the big payloads of ``sites``."""
    edits = [edit for name, site in sites.items() for edit in _slimming(site, tensors[name])]
    pieces = splice(layout.size, edits)
    slim = b"".join(data[p.start : p.end] if isinstance(p, Copy) else _literal(p) for p in pieces)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(slim)
        _check_text(proto)
    except (DecodeError, ValueError) as error:
        raise _not_onnx(path, slim[:64], str(error)) from error
    return proto


def _literal(piece: Any) -> bytes:
    assert isinstance(piece, bytes)  # no slots when reading
    return piece


def _slimming(site: TensorSite, ref: TensorRef) -> Iterator[Edit]:
    """Yield the edits that drop a big payload, or bring a small one in from external data."""
    stored = sum(end - start for start, end in site.payload)
    if site.is_external or stored > SMALL_BYTES:
        for start, end in site.payload:
            yield Edit(start, end, b"", site.enclosing)
    if not site.is_external:
        return
    for entry in site.external:
        yield Edit(entry.field.start, entry.field.end, b"", site.enclosing)
    if site.location_field is not None:
        yield Edit(site.location_field.start, site.location_field.end, b"", site.enclosing)
    if ref.storage.length <= SMALL_BYTES:
        with ref.storage.file.open("rb") as file:
            file.seek(ref.storage.offset)
            raw = encode_field(RAW_DATA, file.read(ref.storage.length))
        yield Edit(site.message.end, site.message.end, raw, site.enclosing)


def _check_text(message: Message) -> None:
    """Raise ValueError if a string field below ``message`` is not UTF-8 (protobuf lets it pass)."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for item in (value,) if isinstance(value, (str, bytes, Message)) else value:
            if isinstance(item, Message):
                _check_text(item)
            elif not isinstance(item, str):
                raise ValueError(f"{field.full_name} is not UTF-8")
