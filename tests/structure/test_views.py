"""Views: a weight that the graph cuts or turns is read, and written back, where it is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphrebase.graph import build_graph, infer_shapes
from graphrebase.io import read_model
from graphrebase.structure.views import View, constant_view

STORED = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)


def view_of(folder: Path, nodes: list[onnx.NodeProto], value: str) -> View | None:
    """Return the view of a value computed by ``nodes`` from the stored (12, 4) matrix ``w``."""
    numbers = {"four": [4], "eight": [8], "rows": [0], "last": [-1]}
    constants = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()]
    constants.append(numpy_helper.from_array(STORED, "w"))
    ends = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)]
    asked = [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])]
    graph = helper.make_graph(nodes, "g", asked, ends, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx"
    )
    view = build_graph(read_model(folder / "m.onnx"))
    return constant_view(view, infer_shapes(view), value)


SLICE = helper.make_node("Slice", ["w", "four", "eight", "rows"], ["middle"])
TURN = helper.make_node("Transpose", ["middle"], ["turned"], perm=[1, 0])


@pytest.mark.parametrize(
    ("nodes", "value", "expected"),
    [
        ([SLICE], "middle", STORED[4:8]),
        ([SLICE, TURN], "turned", STORED[4:8].T),
    ],
)
def test_a_cut_weight_is_read_and_written_where_it_is_stored(
    tmp_path: Path, nodes: list[onnx.NodeProto], value: str, expected: np.ndarray
) -> None:
    view = view_of(tmp_path, nodes, value)
    assert view is not None and view.flat is None
    np.testing.assert_array_equal(view.read(STORED), expected)
    stored = STORED.copy()
    view.write(stored, expected + 1)
    np.testing.assert_array_equal(stored[4:8], STORED[4:8] + 1)
    np.testing.assert_array_equal(
        np.delete(stored, range(4, 8), 0), np.delete(STORED, range(4, 8), 0)
    )


def test_rows_of_rows_and_the_transpose_compose() -> None:
    rows, columns = np.array([3, 1, 2]), np.array([2, 0])
    view = View("w", STORED.shape, shape=STORED.shape).picked(rows, columns).shaped((3, 2))
    again = view.turned().picked(np.array([1, 0]), np.array([2, 0])).shaped((2, 2))
    np.testing.assert_array_equal(again.read(STORED), STORED[rows][:, columns].T[[1, 0]][:, [2, 0]])


def test_control_rows_looked_up_by_an_input_are_no_weight(tmp_path: Path) -> None:
    look = helper.make_node("Gather", ["w", "i"], ["found"])
    assert view_of(tmp_path, [look], "found") is None
