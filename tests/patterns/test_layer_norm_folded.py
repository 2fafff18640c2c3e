"""LayerNorm as tf2onnx writes it: x * (gain / std) + (bias - mean * gain / std)."""

from __future__ import annotations

from pathlib import Path

import pytest
from graph_models import save, scene_of, weight
from graphrebase.patterns import layer_norm_folded
from onnx import helper

from graphrebase.graph.pattern import Match, NearMiss


def match(folder: Path, mean: str, source: str = "x") -> Match | NearMiss | None:
    """Match a norm of x whose last step scales ``source`` and shifts by its mean."""
    nodes = [
        helper.make_node(mean, ["x"], ["mean"], **({"axes": [2]} if mean == "ReduceMean" else {})),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("GlobalAveragePool", ["squares"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["positive"]),
        helper.make_node("Sqrt", ["positive"], ["std"]),
        helper.make_node("Reciprocal", ["std"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "gain"], ["scale"]),
        helper.make_node("Neg", ["mean"], ["minus"]),
        helper.make_node("Mul", [source, "scale"], ["scaled"]),
        helper.make_node("Mul", ["minus", "scale"], ["shift"]),
        helper.make_node("Add", ["shift", "bias"], ["offset"]),
        helper.make_node("Add", ["scaled", "offset"], ["y"]),
    ]
    weights = {"gain": weight(4), "bias": weight(4, seed=1), "epsilon": weight(1, seed=2)}
    scene = scene_of(save(folder, nodes, {"x": ["B", "T", 4], "z": ["B", "T", 4]}, ["y"], weights))
    (core,) = [n for n in scene.graph.nodes if n.op_type in layer_norm_folded.PATTERN.core]
    return layer_norm_folded.PATTERN.match(scene, core)


@pytest.mark.parametrize("mean", ["GlobalAveragePool", "ReduceMean"])
def test_parts_are_named_by_role(mean: str, tmp_path: Path) -> None:
    found = match(tmp_path, mean)
    assert isinstance(found, Match) and found.facts["norm"] == "LayerNorm"
    assert found.parts == {"input": "x", "gain": "gain", "bias": "bias", "output": "y"}


def test_control_another_value_scaled_is_no_norm(tmp_path: Path) -> None:
    assert isinstance(match(tmp_path, "GlobalAveragePool", source="z"), NearMiss)
