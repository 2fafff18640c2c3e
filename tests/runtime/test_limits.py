"""Given inputs that a model does not take are named with the value and the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from runtime.runtime_models import FLOAT, INT64, embedding, graph_of, model

from graphrebase.errors import InputError
from graphrebase.graph import Graph
from graphrebase.runtime import Session
from graphrebase.runtime.limits import check_rows, check_running

ROWS, POSITIONS = 11, 7


def opened(proto: onnx.ModelProto, folder: Path) -> tuple[Session, Graph]:
    return Session(proto.SerializeToString()), graph_of(proto, folder)


@pytest.mark.parametrize("value", [-1, ROWS, 10**6])
def test_an_index_outside_its_table(value: int, tmp_path: Path) -> None:
    graph = opened(embedding(ROWS, POSITIONS), tmp_path)[1]
    ids = np.full((3, 4), ROWS - 1)
    check_rows({"ids": ids}, graph, model="target")
    ids[1, 2] = value
    with pytest.raises(InputError, match=f"'ids' holds {value}, the target has a table of 11"):
        check_rows({"ids": ids}, graph, model="target")


@pytest.mark.parametrize("length", [POSITIONS + 1, 3 * POSITIONS])
def test_a_sequence_longer_than_the_model_runs_on(length: int, tmp_path: Path) -> None:
    session, graph = opened(embedding(ROWS, POSITIONS), tmp_path)
    check_running(session, graph, {"ids": np.ones((3, POSITIONS), np.int64)}, model="target")
    with pytest.raises(InputError, match=f"{length} tokens, the target runs on {POSITIONS} at"):
        check_running(session, graph, {"ids": np.ones((3, length), np.int64)}, model="target")


def test_values_that_are_looked_up_by_a_computed_index(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["ids", "one"], ["places"]),
        helper.make_node("Gather", ["table", "places"], ["logits"]),
    ]
    ends = ("ids", INT64, ["batch", "length"]), ("logits", FLOAT, ["batch", "length", 2])
    weights = {"table": np.ones((ROWS, 2), np.float32), "one": np.array(1)}
    session, graph = opened(model(nodes, [ends[0]], [ends[1]], weights), tmp_path)
    ids = np.zeros((5, 4), np.int64)
    ids[3, 1] = ROWS - 2
    check_running(session, graph, {"ids": ids}, model="target")
    ids[3, 1] += 1
    check_rows({"ids": ids}, graph, model="target")  # what it is added to is not known here
    with pytest.raises(InputError, match="'ids' holds 0 to 10, which the target does not take"):
        check_running(session, graph, {"ids": ids}, model="target")


def test_a_size_that_is_baked_in(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = ("x", FLOAT, ["batch", "size"]), ("y", FLOAT, ["batch", 2])
    proto = model(nodes, [ends[0]], [ends[1]], {"w": np.ones((9, 2), np.float32)})
    session, graph = opened(proto, tmp_path)
    with pytest.raises(InputError, match=r"shapes x \(.., 5\)"):
        check_running(session, graph, {"x": np.ones((2, 5), np.float32)}, model="target")
    check_running(session, graph, {"x": np.ones((2, 9), np.float32)}, model="target")


def test_control_a_model_that_runs_on_nothing_is_not_the_inputs_fault(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "Gather",
            [
                "table",
                "ids",
            ],
            ["y"],
        )
    ]
    nodes.insert(0, helper.make_node("Reshape", ["ids", "shape"], ["broken"]))
    ends = ("ids", INT64, ["batch", "length"]), ("y", FLOAT, ["batch", "length", 2])
    weights = {"table": np.ones((ROWS, 2), np.float32), "shape": np.array([7919])}
    proto = model(nodes, [ends[0]], [ends[1], ("broken", INT64, [7919])], weights)
    session, graph = opened(proto, tmp_path)
    check_running(session, graph, {"ids": np.zeros((2, 4), np.int64)}, model="target")
