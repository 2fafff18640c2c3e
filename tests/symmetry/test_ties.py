"""The best of equal scores is the first: an axis of 8-bit scores keeps its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.symmetry import Symmetry, find_symmetry


def routed(folder: Path, *, quantised: bool) -> Symmetry:
    """Analyse x (n, 5) -> 4 scores -> the best two -> rows of a table (4, 3)."""
    source = np.random.default_rng(0)
    weights = {
        "w": source.standard_normal((5, 4)).astype(np.float32),
        "table": source.standard_normal((4, 3)).astype(np.float32),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(128, np.uint8),
        "k": np.array([2]),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"])]
    if quantised:
        nodes += [
            helper.make_node("QuantizeLinear", ["scores", "scale", "zero"], ["small"]),
            helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["rounded"]),
        ]
    nodes += [
        helper.make_node("Softmax", ["rounded" if quantised else "scores"], ["share"], axis=-1),
        helper.make_node("TopK", ["share", "k"], ["best", "which"]),
        helper.make_node("Gather", ["table", "which"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 3]),
    ]
    initializers = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "routed", ends[:1], ends[1:], initializers)
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "m.onnx")
    return find_symmetry(build_graph(read_model(folder / "m.onnx")))


@pytest.mark.parametrize(("quantised", "groups"), [(True, 0), (False, 1)])
def test_only_scores_without_ties_are_interchangeable(
    quantised: bool, groups: int, tmp_path: Path
) -> None:
    found = routed(tmp_path, quantised=quantised)
    assert len(found.groups) == groups
    assert any("equal scores" in item.reason for item in found.frozen) == quantised
