"""Rows written by index keep their place, what is inside a row moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import helper, numpy_helper


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


def save_slice_written(folder: Path, count: int = 3) -> Path:
    """Save y = z v, where z (S, 6) is x w with ``count`` of its units replaced by x u."""
    columns = np.arange(2, 2 + count, dtype=np.int64)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["x", "u"], ["g"]),
        helper.make_node("Transpose", ["h"], ["ht"], perm=[1, 0]),
        helper.make_node("Transpose", ["g"], ["gt"], perm=[1, 0]),
        helper.make_node("ScatterND", ["ht", "columns", "gt"], ["zt"]),
        helper.make_node("Transpose", ["zt"], ["z"], perm=[1, 0]),
        helper.make_node("MatMul", ["z", "v"], ["y"]),
    ]
    weights = {"w": weight(3, 6), "u": weight(3, count, seed=1), "v": weight(6, 2, seed=2)}
    return save(folder, nodes, {"x": ["S", 3]}, ["y"], weights | {"columns": columns[:, None]})


def test_a_range_that_is_written_is_a_part(tmp_path: Path) -> None:
    """``x[..., 2:5] = y`` keeps x before and after it, and what is written."""
    path = save_slice_written(tmp_path)
    symmetry = assert_permutes(path, [{"x": weight(n, 3, seed=n)} for n in (4, 7)], "v")
    sizes = {
        group.size: found
        for group, found in zip(symmetry.groups, members(symmetry), strict=True)
        if len(found) > 1
    }
    assert sizes == {2: {("w", 1), ("v", 0)}, 3: {("u", 1), ("v", 0)}}


def test_control_rows_that_do_not_count_up_are_frozen(tmp_path: Path) -> None:
    path = save_slice_written(tmp_path)
    model = onnx.load(path)
    (columns,) = (t for t in model.graph.initializer if t.name == "columns")
    columns.CopyFrom(numpy_helper.from_array(np.array([[4], [2], [3]], np.int64), "columns"))
    onnx.save(model, path)
    symmetry = symmetry_of(path)
    assert not symmetry.groups
    assert {f.reason for f in symmetry.frozen} >= {"rows are written by index"}
