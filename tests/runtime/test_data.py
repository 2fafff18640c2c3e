"""Arrays come from plain npz files only, and are cast without losing values."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from runtime.runtime_models import FLOAT, model

from graphrebase.errors import InputError
from graphrebase.runtime import (
    InputSpec,
    Session,
    cast_inputs,
    check_inputs,
    load_npz,
    split_labels,
)


def test_arrays_come_back(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=np.arange(3), label=np.array([1, 0, 1]))
    inputs, labels = split_labels(load_npz(tmp_path / "d.npz"))
    assert inputs["x"].tolist() == [0, 1, 2]
    assert labels is not None and labels.tolist() == [1, 0, 1]
    assert split_labels(inputs) == (inputs, None)


def _pickled(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(3))


def _foreign(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def _cut(path: Path) -> None:
    np.savez(path, x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:-40])


def _damaged(path: Path) -> None:
    np.savez_compressed(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[80:120] = bytes(40)
    path.write_bytes(content)


def _text(path: Path) -> None:
    path.write_text("x,y\n1,2\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _no_arrays(path: Path) -> None:
    np.savez(path)


def _absent(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "write",
    [_pickled, _single, _foreign, _cut, _damaged, _text, _empty, _no_arrays, _absent],
)
def test_anything_else_is_refused(write: object, tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    write(path)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        load_npz(path)
    assert caught.value.hint and caught.value.where == str(path)


def _session(kind: int) -> Session:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return Session(model(nodes, [("x", kind, ["n"])], [("y", kind, ["n"])]).SerializeToString())


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (FLOAT, np.array([1, 255], np.uint8)),
        (FLOAT, np.array([1, 2], np.float64)),
        (TensorProto.INT64, np.array([1, 2], np.int32)),
        (TensorProto.INT32, np.array([1, 2], np.int64)),
        (TensorProto.BOOL, np.array([1, 0], np.uint8)),
    ],
)
def test_casts_keep_the_values(kind: int, given: np.ndarray) -> None:
    session = _session(kind)
    found = cast_inputs(session, {"x": given})["x"]
    assert found.dtype == session.inputs["x"].dtype
    assert np.array_equal(found, given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (TensorProto.INT64, np.array([1.0])),
        (TensorProto.INT32, np.array([2**40])),
        (TensorProto.BOOL, np.array([2])),
        (FLOAT, np.array(["a"])),
    ],
)
def test_casts_that_lose_values_are_refused(kind: int, given: np.ndarray) -> None:
    with pytest.raises(InputError, match="'x'"):
        cast_inputs(_session(kind), {"x": given})


IMAGES = {"x": InputSpec("x", np.dtype(np.float32), ("n", 3, 4, 4))}


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("ids", np.zeros((9, 0), np.int64), "is empty"),
        ("mask", np.zeros((9, 5), np.int64), "hides every token"),
    ],
)
def test_tokens_that_say_nothing(name: str, array: np.ndarray, reason: str) -> None:
    inputs = {n: InputSpec(n, np.dtype(np.int64), ("n", "s")) for n in ("ids", "mask")}
    with pytest.raises(InputError, match=f"'{name}' {reason}"):
        check_inputs({"ids": np.zeros((9, 5), np.int64), name: array}, inputs)
    check_inputs({"ids": np.zeros((9, 5), np.int64), "mask": np.eye(9, 5, dtype=bool)}, inputs)


def test_arrays_that_fit_are_let_through() -> None:
    check_inputs({"x": np.zeros((9, 3, 4, 4), np.uint8), "other": np.zeros(1)}, IMAGES)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("y", np.zeros((9, 3, 4, 4)), "none of the arrays"),
        ("x", np.full((9, 3, 4, 4), "a"), "has type"),
        ("x", np.zeros((9, 3, 4)), "has the shape"),
        ("x", np.zeros((9, 3, 4, 5)), "has the shape"),
        ("x", np.full((9, 3, 4, 4), np.nan), "holds NaN"),
        ("x", np.full((9, 3, 4, 4), np.inf), "holds infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_named(name: str, array: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as refusal:
        check_inputs({name: array}, IMAGES, where="d.npz")
    assert refusal.value.where == "d.npz" and refusal.value.hint
