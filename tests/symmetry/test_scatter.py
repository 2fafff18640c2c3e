"""Rows written by index keep their place, what is inside a row moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_models import ints, save, weight
from laws import assert_permutes, members
from onnx import helper


def test_heads_of_a_bias_table_written_row_by_row_move(tmp_path: Path) -> None:
    """x (S, 3) -> 6 heads, plus a table (2, 6) whose rows are written into zeros (4, 6)."""
    nodes = [
        helper.make_node("ScatterND", ["zeros", "rows", "table"], ["full"]),
        helper.make_node("ReduceSum", ["full", "first"], ["bias"], keepdims=1),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    weights = {"w": weight(3, 6), "v": weight(6, 2, seed=1), "table": weight(2, 6, seed=2)}
    weights |= {"zeros": np.zeros((4, 6), np.float32), "first": ints(0)}
    weights["rows"] = np.array([[2], [0]], np.int64)
    path = save(tmp_path, nodes, {"x": ["S", 3]}, ["y"], weights)
    symmetry = assert_permutes(path, [{"x": weight(n, 3, seed=n)} for n in (4, 7)], "table")
    moved = {("w", 1), ("v", 0), ("table", 1), ("zeros", 1)}
    assert members(symmetry) == [moved]
