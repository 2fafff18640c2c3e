"""Tensors by reference: loaded when asked for, encoded piece by piece when written."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from graphrebase.errors import GraphRebaseError, InputError, VerificationError

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Types whose elements are narrower than a byte, and their width in bits (onnx.proto, raw_data).
_PACKED_BITS = {
    "int4": 4,
    "uint4": 4,
    "float4_e2m1fn": 4,
    "int2": 2,
    "uint2": 2,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
}
_CHUNK = 1 << 20  # elements; a multiple of 4, so that packed elements never share a byte
_MAX_BYTES = (1 << 63) - 1
_MAX_RANK = 64  # numpy's limit


def _dtype_table() -> dict[int, np.dtype[Any]]:
    """Return the numpy (or ml_dtypes) type of each ONNX type that this onnx release knows."""
    table = {}
    for data_type in TensorProto.DataType.values():
        try:
            table[data_type] = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
        except (KeyError, TypeError):  # UNDEFINED
            continue
    return table


DTYPES = _dtype_table()


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a payload lies: ``length`` bytes at ``offset`` of ``file``.

    The bytes are the elements themselves, little-endian (``raw_data``, packed ``float_data``), or,
    if ``is_message``, a whole TensorProto that has to be decoded.
    """

    file: Path
    offset: int
    length: int
    is_message: bool = False


@dataclass(frozen=True, slots=True)
class TensorRef:
    """An initializer or Constant of a model, known by place, not by value.

    ``dtype`` is a numpy or ml_dtypes type (bfloat16, float8, int4, ..; strings are ``object``);
    elements narrower than a byte are unpacked to one byte each on loading.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    storage: Storage

    @property
    def nbytes(self) -> int:
        """Return the size in bytes of the array that ``load`` returns."""
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> Array:
        """Return the values, read-only: a view of the mapped file where the storage allows.

        A payload at an odd address, packed below a byte or stored as varints is copied.

        Raises:
            InputError: the file is gone, changed or cannot be decoded.
        """
        try:
            array = self._load()
        except (OSError, ValueError, TypeError, OverflowError, DecodeError) as error:
            raise InputError(
                f"cannot load tensor {self.name!r}: {error}",
                where=str(self.storage.file),
                hint="the file may have changed since it was opened; run again",
            ) from error
        array.flags.writeable = False
        return array

    def _load(self) -> Array:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        stored = _map(self.storage)
        if self.storage.is_message:
            return _decode(stored.tobytes(), self)
        if self.dtype.name in _PACKED_BITS:
            return _unpack(stored, self)
        view = stored.view(self.dtype).reshape(self.shape)
        return view if view.flags.aligned else view.copy()


def _map(storage: Storage) -> Array:
    """Return the stored bytes as a uint8 view of the mapped file (kept open by the view only)."""
    lead = storage.offset % mmap.ALLOCATIONGRANULARITY
    with storage.file.open("rb") as file:
        mapped = mmap.mmap(
            file.fileno(),
            lead + storage.length,
            access=mmap.ACCESS_READ,
            offset=storage.offset - lead,
        )
    return np.frombuffer(mapped, np.uint8, count=storage.length, offset=lead)


def _decode(message: bytes, ref: TensorRef) -> Array:
    tensor = TensorProto()
    tensor.ParseFromString(message)
    return np.array(numpy_helper.to_array(tensor), ref.dtype).reshape(ref.shape)


def _unpack(stored: Array, ref: TensorRef) -> Array:
    data_type = helper.np_dtype_to_tensor_dtype(ref.dtype)
    tensor = TensorProto(data_type=data_type, dims=ref.shape, raw_data=stored.tobytes())
    return np.array(numpy_helper.to_array(tensor), ref.dtype)


def stored_bytes(dtype: np.dtype[Any], count: int) -> int:
    """Return the bytes that ``count`` elements take in ``raw_data``."""
    return -(-count * _PACKED_BITS.get(dtype.name, 8 * dtype.itemsize) // 8)


def typed_values(data_type: int, count: int) -> tuple[int, int]:
    """Return the typed payload field of an ONNX type and how many values ``count`` elements take.

    Complex elements take two values; elements below a byte share one (onnx.proto, int32_data),
    except that 6-bit ones do not.
    """
    field = TensorProto.DESCRIPTOR.fields_by_name[helper.tensor_dtype_to_field(data_type)]
    dtype = DTYPES[data_type]
    if dtype.kind == "c":
        count *= 2
    elif _PACKED_BITS.get(dtype.name, 6) != 6:
        count = stored_bytes(dtype, count)
    return int(field.number), count


def is_possible_shape(shape: tuple[int, ...], itemsize: int) -> bool:
    """Tell whether an array of this shape can exist at all (rank, signs, size)."""
    size = itemsize
    for extent in shape:
        if extent < 0:
            return False
        size *= max(extent, 1)
    return len(shape) <= _MAX_RANK and size <= _MAX_BYTES


def encode(ref: TensorRef, values: Array) -> Iterator[Array]:
    """Yield the payload of ``values`` as tensor ``ref`` stores it, as uint8 arrays in order.

    Args:
        ref: the tensor to be replaced.
        values: the new values, of its shape and of its dtype; float32 and float64 are cast to the
            tensor's dtype if that is a floating type.

    Raises:
        GraphRebaseError: shape or dtype do not fit.
        VerificationError: a value is not finite after the cast. Infinities or NaNs that the
            tensor has already (a mask of -inf) may come back, not more of them.
    """
    values = np.asarray(values)
    _check_fits(ref, values)
    spare: dict[str, int] | None = None
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            cast = np.ascontiguousarray(part.astype(ref.dtype, copy=False))
        found = {**_non_finite(part), **_non_finite(cast)}
        if found:
            spare = _non_finite(ref.load().reshape(-1)) if spare is None else spare
            _spend(spare, found, ref)
        yield _pack(cast, ref)


def _check_fits(ref: TensorRef, values: Array) -> None:
    is_cast = is_float(ref.dtype) and values.dtype in (np.float32, np.float64)
    fits = values.dtype == ref.dtype or (is_cast and ref.dtype.kind != "c")
    if values.shape != ref.shape or not fits:
        raise GraphRebaseError(
            f"tensor {ref.name!r} is {ref.dtype} {ref.shape}, "
            f"its replacement is {values.dtype} {values.shape}"
        )


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type holds floating (or complex) numbers, those of ml_dtypes included."""
    return dtype.name.startswith(("float", "bfloat", "complex"))


def _non_finite(values: Array) -> dict[str, int]:
    """Return how many elements are NaN, +inf and -inf; empty if none is."""
    if not is_float(values.dtype) or np.isfinite(values).all():
        return {}
    odd = values[~np.isfinite(values)]
    if odd.dtype.kind == "c":
        return {"nan": odd.size}
    wide = odd.astype(np.float64)
    kinds = {"nan": np.isnan(wide), "inf": wide == np.inf, "-inf": wide == -np.inf}
    return {name: int(hits.sum()) for name, hits in kinds.items() if hits.any()}


def _spend(spare: dict[str, int], found: dict[str, int], ref: TensorRef) -> None:
    """Take ``found`` off the non-finite values that the tensor may have."""
    for name, count in found.items():
        spare[name] = spare.get(name, 0) - count
        if spare[name] < 0:
            raise VerificationError(
                f"new values of tensor {ref.name!r} are not finite as {ref.dtype} ({name})",
                where=str(ref.storage.file),
                hint="a value overflows the tensor's type: use a smaller alpha or a wider type",
            )


def _pack(cast: Array, ref: TensorRef) -> Array:
    if ref.dtype.name in _PACKED_BITS:
        return np.frombuffer(numpy_helper.from_array(cast).raw_data, np.uint8)
    return cast.view(np.uint8)
