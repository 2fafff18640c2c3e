"""Look-ups: an axis that is looked up keeps its order, the others move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import TensorProto, helper


def feeds(*shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    return [{"x": weight(*shape, seed=i)} for i, shape in enumerate(shapes)]


def save_gather_elements(folder: Path, width: int) -> Path:
    """Save x (T, 3) -> hidden units -> the second row, unit by unit -> y (T, 2)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"]),
        helper.make_node("ReduceMax", ["x"], ["top"], axes=[1]),
        helper.make_node("Sign", ["top"], ["sign"]),
        helper.make_node("Abs", ["sign"], ["ones"]),
        helper.make_node("Cast", ["ones"], ["order"], to=TensorProto.INT64),
        helper.make_node("Expand", ["order", "shape"], ["index"]),
        helper.make_node("GatherElements", ["hidden", "index"], ["picked"], axis=0),
        helper.make_node("MatMul", ["picked", "w2"], ["y"]),
    ]
    weights = {"w1": weight(3, 6), "w2": weight(width, 2, seed=1)}
    weights["shape"] = ints(1, width)
    return save(folder, nodes, {"x": ["T", 3]}, ["y"], weights)


def test_units_looked_up_element_by_element_move_together(tmp_path: Path) -> None:
    path = save_gather_elements(tmp_path, 6)
    symmetry = assert_permutes(path, feeds((4, 3), (7, 3)), "w2")
    assert members(symmetry) == [{("w1", 1), ("w2", 0)}]


def test_a_corner_that_is_looked_up_keeps_its_order(tmp_path: Path) -> None:
    symmetry = symmetry_of(save_gather_elements(tmp_path, 5))
    assert members(symmetry) == []
    assert {f.reason for f in symmetry.frozen if f.tensor == "w1" and f.axis == 1} == {
        "only a corner of it is looked up"
    }


def test_gather_nd_of_one_static_row_selects_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["packed"]),
        helper.make_node("Reshape", ["packed", "grid"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["first"], perm=[1, 0, 2]),
        helper.make_node("GatherND", ["first", "one"], ["picked"]),
        helper.make_node("Squeeze", ["picked", "zero"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["y"]),
    ]
    weights = {"w1": weight(3, 12), "w2": weight(4, 2, seed=1), "grid": ints(-1, 3, 4)}
    weights |= {"one": np.array([[1]], np.int64), "zero": ints(0)}
    path = save(tmp_path, nodes, {"x": ["T", 3]}, ["y"], weights)
    symmetry = assert_permutes(path, feeds((4, 3), (7, 3)), "w2")
    # The row that is read moves with w2; the two that are not are free on their own.
    assert {("w1", 1), ("w2", 0)} in members(symmetry)


def save_strided(folder: Path, turned: int) -> Path:
    """Save x (T, 3) -> hidden units, strung out and looked up one by one -> y (T, 2)."""
    order = np.arange(6)
    order[:2] = order[:2][::turned]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["tokens"]),
        helper.make_node("Range", ["zero", "tokens", "one"], ["rows"]),
        helper.make_node("Mul", ["rows", "stride"], ["starts"]),
        helper.make_node("Unsqueeze", ["starts", "last"], ["column"]),
        helper.make_node("Add", ["column", "units"], ["places"]),
        helper.make_node("Reshape", ["hidden", "flat"], ["string"]),
        helper.make_node("Gather", ["string", "places"], ["again"]),
        helper.make_node("MatMul", ["again", "w2"], ["y"]),
    ]
    weights = {"w1": weight(3, 6), "w2": weight(6, 2, seed=1), "units": order, "flat": ints(-1)}
    weights |= {"zero": np.array(0), "one": np.array(1), "stride": np.array(6), "last": ints(1)}
    return save(folder, nodes, {"x": ["T", 3]}, ["y"], weights)


def test_numbers_that_count_up_look_nothing_up(tmp_path: Path) -> None:
    path = save_strided(tmp_path, 1)
    symmetry = assert_permutes(path, feeds((4, 3), (7, 3)), "w2")
    assert members(symmetry) == [{("w1", 1), ("w2", 0)}]


def test_control_another_order_is_a_look_up(tmp_path: Path) -> None:
    assert members(symmetry_of(save_strided(tmp_path, -1))) == []


def test_rows_that_nothing_reads_are_no_group(tmp_path: Path) -> None:
    """Positions beyond a length that is fixed: no control could notice that they move."""
    nodes = [
        helper.make_node("Slice", ["table", "first", "last", "axis"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["y"]),
    ]
    weights = {"table": weight(9, 4), "w": weight(4, 5, seed=1)}
    weights |= {"first": ints(0), "last": ints(6), "axis": ints(0)}
    symmetry = symmetry_of(save(tmp_path, nodes, {"x": ["B", 6, 4]}, ["y"], weights))
    assert ("table", 0) not in {(m.tensor, m.axis) for g in symmetry.groups for m in g.members}
    assert "nothing reads it" in {f.reason for f in symmetry.frozen if f.tensor == "table"}
