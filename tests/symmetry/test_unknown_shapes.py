"""An operand of unknown shape is not an absent one: what meets it is frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.symmetry import Symmetry, find_symmetry


def symmetry_of(path: Path, domain: str, operator: str) -> Symmetry:
    """Save MatMul, one operator, Add of a bias (24,), MatMul; return the symmetry."""
    source = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"]),
        helper.make_node(operator, ["m"], ["u"], domain=domain),
        helper.make_node("Add", ["u", "b"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(source.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 24)), ("b", (24,)), ("w2", (24, 3)))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 8), ("y", 3))
    ]
    graph = helper.make_graph(nodes, "unknown", ends[:1], ends[1:], weights)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return find_symmetry(build_graph(read_model(path)))


def test_a_bias_added_to_the_unknown_is_frozen(tmp_path: Path) -> None:
    found = symmetry_of(tmp_path / "model.onnx", "elsewhere", "Mystery")
    assert found.groups == ()
    assert {f.tensor for f in found.frozen} == {"w1", "b", "w2"}


@pytest.mark.parametrize("operator", ["Relu", "Tanh"])
def test_control_a_known_operator_leaves_it_free(tmp_path: Path, operator: str) -> None:
    found = symmetry_of(tmp_path / "model.onnx", "", operator)
    assert [{m.tensor for m in group.members} for group in found.groups] == [{"w1", "b", "w2"}]
