"""An axis is followed past reshapes that keep it, and lost where it is merged."""

from __future__ import annotations

from pathlib import Path

from graph_models import ints, save, scene_of
from onnx import helper

from graphrebase.graph.axis_path import axis_after, axis_before


def test_an_axis_is_followed_both_ways(tmp_path: Path) -> None:
    """x (B, 4, S, 5) -> (B * 4, S, 5) -> turned (B * 4, 5, S) -> (B * 4, 5, S, 1)."""
    nodes = [
        helper.make_node("Reshape", ["x", "merged"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Mul", ["scale", "turned"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "last"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["y"]),
    ]
    weights = {"merged": ints(-1, 7, 5), "last": ints(3), "scale": ints(2).astype("float32")}
    scene = scene_of(save(tmp_path, nodes, {"x": ["B", 4, 7, 5]}, ["y"], weights))
    between = {"Reshape", "Transpose", "Mul", "Unsqueeze"}
    path = scene.path("x", between, {"Relu"})
    assert [axis_after(scene.shapes, path, axis) for axis in range(4)] == [None, None, 2, 1]
    assert [axis_before(scene.shapes, path, axis) for axis in range(4)] == [None, 3, 2, None]
