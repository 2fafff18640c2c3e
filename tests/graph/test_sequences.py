"""What the dynamo exporter writes without optimisation: parts in sequences, CastLike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from graph_models import ints, save, weight
from laws import assert_permutes, members
from onnx import helper

from graphrebase.graph import build_graph, infer_shapes
from graphrebase.io import read_model

WIDTH, UNITS = 4, 6
FEEDS = [{"x": weight(2, tokens, WIDTH, seed=tokens)} for tokens in (5, 7)]


def save_parts(folder: Path, sizes: np.ndarray, place: str = "one") -> Path:
    """Save x (B, T, 4) -> a packed map -> one part of it, times a map of its own size -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "packed"], ["all"]),
        helper.make_node("SplitToSequence", ["all", "sizes"], ["parts"], axis=-1),
        helper.make_node("SequenceAt", ["parts", place], ["part"]),
        helper.make_node("Relu", ["part"], ["active"]),
        helper.make_node("MatMul", ["active", "down"], ["y"]),
    ]
    size = int(sizes) if not sizes.ndim else int(sizes[1])
    weights = {"packed": weight(WIDTH, 2 * UNITS), "down": weight(size, WIDTH), "sizes": sizes}
    weights |= {"one": np.array(1, np.int64), "last": np.array(-1, np.int64)}
    return save(folder, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights)


@pytest.mark.parametrize("sizes", [ints(4, 8), ints(9, 3), np.array(6, np.int64)])
def test_a_part_of_a_sequence_is_a_slice(tmp_path: Path, sizes: np.ndarray) -> None:
    path = save_parts(tmp_path, sizes)
    symmetry = assert_permutes(path, FEEDS, "down")
    assert {("packed", 1), ("down", 0)} in members(symmetry)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = infer_shapes(build_graph(read_model(path))).shapes["y"]
    assert [d[0] for d in shape[1:]][-1] == session.run(None, FEEDS[0])[0].shape[-1]


def test_control_a_part_counted_from_the_end_is_not_followed(tmp_path: Path) -> None:
    path = save_parts(tmp_path, ints(6, 6), "last")
    graph = build_graph(read_model(path))
    assert {n.op_type for n in graph.nodes} >= {"SplitToSequence", "SequenceAt"}


def test_a_number_cast_like_a_size_is_known(tmp_path: Path) -> None:
    """Positions are Range(CastLike(0, T), T, CastLike(1, T))."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=1, end=2),
        helper.make_node("Squeeze", ["size"], ["length"]),
        helper.make_node("CastLike", ["zero", "length"], ["first"]),
        helper.make_node("CastLike", ["unit", "length"], ["step"]),
        helper.make_node("Range", ["first", "length", "step"], ["numbers"]),
        helper.make_node("Gather", ["table", "numbers"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    weights = {"table": weight(9, WIDTH), "zero": np.array(0, np.int32)}
    weights["unit"] = np.array(1, np.int32)
    path = save(tmp_path, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights)
    table = infer_shapes(build_graph(read_model(path)))
    known = table.values["numbers"]
    assert [len(v) for v in known] == list(table.shapes["x"][1])
