"""Permuting models of narrow types: checked as far as onnxruntime can run them, and said."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphrebase.graph import build_graph
from graphrebase.graph.quantized import rounds_activations
from graphrebase.io import read_model, write_model
from graphrebase.rebase.basis import leave_one_out, random_basis
from graphrebase.runtime import NoKernelError, Session
from graphrebase.symmetry import find_symmetry
from graphrebase.verify import permute_model, verify_function

Nodes = list[onnx.NodeProto]


def save(path: Path, nodes: Nodes, weights: dict[str, np.ndarray], kind: int, out: int) -> Path:
    """Save a model x (n, 8) -> y (n, out)."""
    ends = [
        helper.make_tensor_value_info(name, kind, ["n", size])
        for name, size in (("x", 8), ("y", out))
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "narrow", ends[:1], ends[1:], stored)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return path


def two_layers(path: Path, dtype: type, last: str = "Identity", domain: str = "") -> Path:
    """Save MatMul, Relu, a Constant added, MatMul, and one more operator."""
    source = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    bias = numpy_helper.from_array(source.standard_normal(24).astype(dtype), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"]),
        helper.make_node("Constant", [], ["b"], value=bias),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["z"]),
        helper.make_node(last, ["z"], ["y"], domain=domain),
    ]
    shapes = {"w1": (8, 24), "w2": (24, 3)}
    weights = {n: source.standard_normal(s).astype(dtype) for n, s in shapes.items()}
    return save(path, nodes, weights, kind, 3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_checked(tmp_path: Path, dtype: type) -> None:
    path = two_layers(tmp_path / "model.onnx", dtype)
    done = permute_model(path, tmp_path / "same.onnx")
    assert done["checked"] and done["initializers_changed"] == 3
    assert done["relative_error"] <= done["tolerance"] <= 4e-3
    model = read_model(path)
    basis = random_basis(find_symmetry(build_graph(model)))
    write_model(model, tmp_path / "control.onnx", leave_one_out(basis, ["b"]), {})
    assert not verify_function(path, tmp_path / "control.onnx")["passed"]


def test_bfloat16_runs_as_float32_and_says_so(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "model.onnx", ml_dtypes.bfloat16)
    assert Session(path).widened
    assert "float32" in permute_model(path, tmp_path / "same.onnx")["check_note"]
    control = two_layers(tmp_path / "control.onnx", np.float32)
    assert not Session(control).widened
    assert permute_model(control, tmp_path / "other.onnx")["check_note"] == ""


def test_what_cannot_run_is_written_unverified(tmp_path: Path) -> None:
    path = two_layers(tmp_path / "model.onnx", np.float32, "Mystery", "elsewhere")
    with pytest.raises(NoKernelError):
        Session(path)
    done = permute_model(path, tmp_path / "same.onnx")
    assert not done["checked"] and done["max_abs_error"] is None
    assert "not checked by running" in done["check_note"]
    assert done["initializers_changed"] == 3 and (tmp_path / "same.onnx").exists()


def quantized_mask(path: Path, scale: float) -> Path:
    """Save (x w1) w2 quantised with a scale, as if a mask had been added to it, then a skip."""
    source = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"]),
        helper.make_node("MatMul", ["m", "w2"], ["z"]),
        helper.make_node("QuantizeLinear", ["z", "s", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
        helper.make_node("MatMul", ["x", "w3"], ["skip"]),
        helper.make_node("Add", ["d", "skip"], ["y"]),
    ]
    shapes = {"w1": (8, 24), "w2": (24, 3), "w3": (8, 3)}
    weights = {n: source.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    weights |= {"s": np.array(scale, np.float32), "zero": np.array(128, np.uint8)}
    return save(path, nodes, weights, TensorProto.FLOAT, 3)


def test_a_saturated_scale_is_no_silent_success(tmp_path: Path) -> None:
    blind = quantized_mask(tmp_path / "blind.onnx", 1e36)
    assert rounds_activations(onnx.load(blind).graph)
    assert permute_model(blind, tmp_path / "a.onnx")["not_seen"] == ["hidden"]
    control = quantized_mask(tmp_path / "control.onnx", 0.2)
    assert permute_model(control, tmp_path / "b.onnx")["not_seen"] == []
