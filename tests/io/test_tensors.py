"""Every tensor type and storage form loads as onnx loads it, and encodes back to its bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphrebase.errors import GraphRebaseError, InputError, VerificationError
from graphrebase.io import TensorRef, read_model
from graphrebase.io.tensors import DTYPES, Storage, encode

TYPES = sorted(set(DTYPES) - {TensorProto.STRING})


def values_of(data_type: int, count: int) -> np.ndarray:
    """Return every third bit pattern of a type, those it can represent."""
    dtype = DTYPES[data_type]
    numbers = (
        np.arange(1, count + 1) % 2 if dtype.name in ("bool", "int2") else np.arange(count) % 4
    )
    return np.where(numbers == 0, 1, numbers).astype(dtype)


def as_typed(array: np.ndarray, name: str) -> TensorProto:
    """Return ``array`` in its typed field, as old writers do."""
    data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, data_type, array.shape, array.flatten())


@pytest.mark.parametrize("form", ["raw", "typed"])
@pytest.mark.parametrize("count", [0, 7, 6000])
@pytest.mark.parametrize("data_type", TYPES, ids=TensorProto.DataType.Name)
def test_loads_as_onnx_does(
    data_type: int,
    count: int,
    form: str,
    make_model: Callable[..., ModelProto],
    save: Callable[..., Path],
) -> None:
    array = values_of(data_type, count)
    tensor = numpy_helper.from_array(array, "t") if form == "raw" else as_typed(array, "t")
    expected = numpy_helper.to_array(tensor)
    ref = read_model(save(make_model((tensor,)))).tensors["t"]
    loaded = ref.load()
    assert (loaded.dtype, loaded.shape) == (ref.dtype, ref.shape) == (array.dtype, (count,))
    assert loaded.nbytes == ref.nbytes
    assert loaded.tobytes() == expected.tobytes() == array.tobytes()
    assert not loaded.flags.writeable
    assert b"".join(chunk.tobytes() for chunk in encode(ref, loaded)) == (
        numpy_helper.from_array(array).raw_data
    )


def test_strings_load(make_model: Callable[..., ModelProto], save: Callable[..., Path]) -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", "ü".encode()])
    assert read_model(save(make_model((tensor,)))).tensors["t"].load().tolist() == ["a", "ü"]


def test_unpacked_floats_load(tmp_path: Path, make_model: Callable[..., ModelProto]) -> None:
    """Writers from before packed fields emit a tag per value."""
    tensor = TensorProto(name="old", data_type=TensorProto.FLOAT, dims=[2])
    message = tensor.SerializeToString()
    for value in (1.5, -2.0):
        message += b"\x25" + np.float32(value).tobytes()
    model = make_model()
    graph = model.graph.SerializeToString() + b"\x2a" + bytes([len(message)]) + message
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    size = len(graph)
    prefix = bytes([0x3A, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    path.write_bytes(model.SerializeToString() + prefix + graph)
    assert read_model(path).tensors["old"].load().tolist() == [1.5, -2.0]


def test_view_of_the_file_where_aligned_else_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\0" * 4 + np.arange(5, dtype=np.float32).tobytes())
    aligned = TensorRef("t", np.dtype(np.float32), (5,), Storage(path, 4, 20)).load()
    odd = TensorRef("t", np.dtype(np.float32), (4,), Storage(path, 5, 16)).load()
    assert aligned.tolist() == [0, 1, 2, 3, 4]
    assert aligned.base is not None
    assert odd.flags.aligned
    assert not odd.flags.writeable


def test_file_cut_short_after_reading_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\0" * 10)
    with pytest.raises(InputError, match="cannot load"):
        TensorRef("t", np.dtype(np.float32), (5,), Storage(path, 0, 20)).load()


def ref_of(tmp_path: Path, array: np.ndarray) -> TensorRef:
    path = tmp_path / "data"
    path.write_bytes(array.tobytes())
    return TensorRef("t", array.dtype, array.shape, Storage(path, 0, array.nbytes))


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_floats_are_cast(dtype: str, source: str, tmp_path: Path) -> None:
    ref = ref_of(tmp_path, np.zeros((2, 3), dtype))
    values = np.linspace(-1, 1, 6).reshape(3, 2).astype(source).T
    assert next(encode(ref, values)).tobytes() == values.astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", np.zeros(4, np.float32)),
        ("int32", np.zeros((2, 2), np.float32)),
        ("float32", np.zeros((2, 2), np.int32)),
        ("float32", np.zeros((2, 2), np.float16)),
    ],
)
def test_misfits_are_refused(dtype: str, values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(GraphRebaseError, match="replacement"):
        list(encode(ref_of(tmp_path, np.zeros((2, 2), dtype)), values))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float16", 1e5),
        ("float32", np.nan),
        ("float32", 1e300),
        (ml_dtypes.float8_e4m3fn, 1e4),
        (ml_dtypes.float4_e2m1fn, np.nan),
        ("float32", -np.inf),
    ],
)
def test_non_finite_values_are_refused(dtype: str, value: float, tmp_path: Path) -> None:
    ref = ref_of(tmp_path, np.ones(3, dtype))
    with pytest.raises(VerificationError, match="'t'"):
        list(encode(ref, np.array([0.5, value, 1.0])))
    list(encode(ref, np.array([0.5, 0.5, 1.0])))


def test_infinities_of_the_original_may_move_but_not_multiply(tmp_path: Path) -> None:
    mask = np.array([0, -np.inf, 0], np.float32)
    ref = ref_of(tmp_path, mask)
    list(encode(ref, mask[::-1]))
    for bad in ([-np.inf, -np.inf, 0], [0, np.inf, 0], [0, np.nan, 0]):
        with pytest.raises(VerificationError):
            list(encode(ref, np.array(bad, np.float32)))
