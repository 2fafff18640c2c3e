"""Attention without a Softmax operator: by hand, sigmoid, squared ReLU; not linear attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import ints, save, scene_of
from graphrebase.patterns.attention_weights import PATTERN
from onnx import NodeProto, helper

from graphrebase.graph.pattern import Match

Q = {"q": [2, 4, 5, 8], "k": [2, 4, 8, 5], "v": [2, 4, 5, 8]}
SCALED = helper.make_node("Mul", ["raw", "scale"], ["s"])
WEIGHTS = {
    "softmax by hand": [
        SCALED,
        helper.make_node("ReduceMax", ["s"], ["top"], axes=[-1]),
        helper.make_node("Sub", ["s", "top"], ["low"]),
        helper.make_node("Exp", ["low"], ["e"]),
        helper.make_node("ReduceSum", ["e", "last"], ["total"]),
        helper.make_node("Div", ["e", "total"], ["p"]),
    ],
    "sigmoid": [SCALED, helper.make_node("Sigmoid", ["s"], ["p"])],
    "squared ReLU": [
        SCALED,
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Mul", ["r", "r"], ["p"]),
    ],
}


def found(folder: Path, between: list[NodeProto]) -> list[Match]:
    """Return what the pattern finds around the operators between two contractions."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["raw"]),
        *between,
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    given = {"scale": np.array(0.3, np.float32), "last": ints(-1)}
    scene = scene_of(save(folder, nodes, Q, ["y"], given))
    answers = [PATTERN.match(scene, n) for n in scene.graph.nodes if n.op_type in PATTERN.core]
    return [answer for answer in answers if isinstance(answer, Match)]


@pytest.mark.parametrize("name", WEIGHTS)
def test_attention(name: str, tmp_path: Path) -> None:
    (match,) = found(tmp_path, WEIGHTS[name])
    assert dict(match.parts) == {"query": "q", "key": "k", "value": "v", "output": "y"}


def test_control_linear_attention_and_softmax_are_something_else(tmp_path: Path) -> None:
    assert found(tmp_path, [helper.make_node("Mul", ["raw", "scale"], ["p"])]) == []
    assert found(tmp_path, [SCALED, helper.make_node("Softmax", ["s"], ["p"])]) == []
