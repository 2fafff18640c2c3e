"""Equal values along a dynamic axis (heads merged into the batch) say nothing of what they meet."""

from __future__ import annotations

from pathlib import Path

from graph_models import ints, save, weight
from laws import assert_permutes, members
from onnx import helper


def test_a_value_repeated_over_merged_heads_leaves_them_free(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["units"]),
        helper.make_node("Reshape", ["units", "merged"], ["rows"]),
        helper.make_node("Shape", ["rows"], ["size"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=1),
        helper.make_node("Expand", ["top", "size"], ["repeated"]),
        helper.make_node("Mul", ["rows", "repeated"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "apart"], ["again"]),
        helper.make_node("MatMul", ["again", "w2"], ["y"]),
    ]
    weights = {"w1": weight(3, 8), "w2": weight(8, 2, seed=1)}
    weights |= {"merged": ints(-1, 4), "apart": ints(-1, 8)}
    path = save(tmp_path, nodes, {"x": ["B", 3]}, ["y"], weights)
    feeds = [{"x": weight(batch, 3, seed=batch)} for batch in (4, 9)]
    symmetry = assert_permutes(path, feeds, "w2")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(2, 1), (4, 2)]
    assert members(symmetry) == [{("w1", 1), ("w2", 0)}] * 2
