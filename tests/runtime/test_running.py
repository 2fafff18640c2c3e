"""A session says what its model takes, runs it, and refuses what does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime.runtime_models import FLOAT, linear, model

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime import Session

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
X = np.array([[1.0, 2.0]], np.float32)


def test_path_with_external_data_and_bytes_give_the_same(tmp_path: Path) -> None:
    proto = onnx.load_from_string(linear(WEIGHT))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    for session in (Session(path), Session(linear(WEIGHT))):
        np.testing.assert_allclose(session.run({"x": X})["logits"], X @ WEIGHT)


def test_external_data_that_is_gone_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = onnx.load_from_string(linear(WEIGHT))
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match="refuses"):
        Session(path)


def test_declared_shapes_give_unnamed_sizes_their_own_symbol() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    proto = model(
        nodes,
        [("a", TensorProto.DOUBLE, [None, "n", 3]), ("b", TensorProto.DOUBLE, [None, 1, 3])],
        [("y", TensorProto.DOUBLE, [None, "n", 3])],
    )
    inputs = Session(proto.SerializeToString()).inputs
    assert inputs["a"].dtype == np.float64
    assert inputs["a"].shape[1:] == ("n", 3)
    unnamed = {inputs["a"].shape[0], inputs["b"].shape[0]}
    assert len(unnamed) == 2 and all(isinstance(symbol, str) for symbol in unnamed)


def test_chosen_outputs_only() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["b"])]
    proto = model(nodes, [("x", FLOAT, ["n"])], [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])])
    session = Session(proto.SerializeToString())
    assert session.outputs == ("a", "b")
    assert list(session.run({"x": X[0]}, outputs=["b"])) == ["b"]
    with pytest.raises(InputError, match="'c'"):
        session.run({"x": X[0]}, outputs=["c"])


def test_bfloat16_goes_in_and_out() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("Neg", ["wide"], ["negative"]),
        helper.make_node("Cast", ["negative"], ["y"], to=TensorProto.BFLOAT16),
    ]
    kind = TensorProto.BFLOAT16
    session = Session(model(nodes, [("x", kind, ["n"])], [("y", kind, ["n"])]).SerializeToString())
    given = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    found = session.run({"x": given})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tolist() == [-1.5, 2.0]


def test_a_scalar_input_stays_a_scalar() -> None:
    proto = model([helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [])], [("y", FLOAT, [])])
    assert Session(proto.SerializeToString()).run({"x": np.float32(2)})["y"].shape == ()


@pytest.mark.parametrize(
    ("inputs", "fault"), [({}, "missing: 'x'"), ({"x": X, "z": X}, "not inputs of the model: 'z'")]
)
def test_wrong_input_names_list_those_needed(inputs: dict[str, np.ndarray], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        Session(linear(WEIGHT)).run(inputs)
    assert "'x'" in (caught.value.hint or "")


def test_a_failing_run_names_the_shapes() -> None:
    with pytest.raises(VerificationError, match=r"x \(1, 5\)"):
        Session(linear(WEIGHT)).run({"x": np.ones((1, 5), np.float32)})


def test_a_failing_operator_is_raised_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    kinds = [("a", FLOAT, ["n"]), ("b", FLOAT, ["m"])]
    session = Session(model(nodes, kinds, [("y", FLOAT, ["k"])]).SerializeToString())
    with pytest.raises(VerificationError, match=r"a \(2,\), b \(3,\)"):
        session.run({"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})
    assert capfd.readouterr().err == ""


def test_refused_models_and_calls(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refuses") as caught:
        Session(b"not a model")
    assert len(caught.value.message) < 400
    with pytest.raises(InputError, match="no such"):
        Session(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="threads"):
        Session(linear(WEIGHT), threads=0)


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError) as caught:
        Session(linear(WEIGHT))
    assert caught.value.hint == "pip install 'graphrebase[cpu]'"
