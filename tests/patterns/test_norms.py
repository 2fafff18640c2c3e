"""Norms, as one operator or written out, name their gain and bias; look-alikes are not norms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import ints, save, scene_of, weight
from graphrebase.patterns import (
    PATTERNS,
    attention_operator,
    layer_norm,
    layer_norm_decomposed,
    rms_norm_decomposed,
)
from onnx import NodeProto, helper

from graphrebase.graph.pattern import Match, NearMiss, Pattern

WEIGHTS = {
    "gain": weight(8),
    "bias": weight(8, seed=1),
    "two": np.array(2.0, np.float32),
    "one": np.array(1.0, np.float32),
    "eps": np.array(1e-5, np.float32),
    "axes": ints(-1),
}


def matches(
    folder: Path, nodes: list[NodeProto], pattern: Pattern, opset: int = 17
) -> list[object]:
    scene = scene_of(save(folder, nodes, {"x": ["B", 3, 8]}, ["y"], WEIGHTS, opset=opset))
    results = [pattern.match(scene, n) for n in scene.graph.nodes if n.op_type in pattern.core]
    return [r for r in results if r is not None]


def layer_norm_nodes(*, gain: bool = True) -> list[NodeProto]:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Pow", ["centred", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normal" if gain else "y"]),
    ]
    if gain:
        nodes += [
            helper.make_node("Mul", ["normal", "gain"], ["scaled"]),
            helper.make_node("Add", ["scaled", "bias"], ["y"]),
        ]
    return nodes


def rms_norm_nodes(inverse: str, *, gain_first: bool) -> list[NodeProto]:
    operands = ["gain", "normal"] if gain_first else ["normal", "gain"]
    reciprocal = (
        helper.make_node("Div", ["one", "root"], ["inverse"])
        if inverse == "Div"
        else helper.make_node("Reciprocal", ["root"], ["inverse"])
    )
    return [
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[-1]),
        helper.make_node("Add", ["mean", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["root"]),
        reciprocal,
        helper.make_node("Mul", ["x", "inverse"], ["normal"]),
        helper.make_node("Mul", operands, ["y"]),
    ]


def test_layer_norm_written_out(tmp_path: Path) -> None:
    (match,) = matches(tmp_path, layer_norm_nodes(), layer_norm_decomposed.PATTERN)
    assert isinstance(match, Match)
    assert dict(match.parts) == {"input": "x", "gain": "gain", "bias": "bias", "output": "y"}


def test_layer_norm_without_gain_is_a_near_miss(tmp_path: Path) -> None:
    (miss,) = matches(tmp_path, layer_norm_nodes(gain=False), layer_norm_decomposed.PATTERN)
    assert isinstance(miss, NearMiss)


@pytest.mark.parametrize("inverse", ["Div", "Reciprocal"])
@pytest.mark.parametrize("gain_first", [True, False])
def test_rms_norm_written_out(inverse: str, gain_first: bool, tmp_path: Path) -> None:
    nodes = rms_norm_nodes(inverse, gain_first=gain_first)
    (match,) = matches(tmp_path, nodes, rms_norm_decomposed.PATTERN)
    assert isinstance(match, Match)
    assert dict(match.parts) == {"input": "x", "gain": "gain", "output": "y"}


def test_the_two_are_not_confused(tmp_path: Path) -> None:
    assert matches(tmp_path, layer_norm_nodes(), rms_norm_decomposed.PATTERN) == []
    nodes = rms_norm_nodes("Div", gain_first=True)
    assert matches(tmp_path, nodes, layer_norm_decomposed.PATTERN) == []


@pytest.mark.parametrize(
    ("op_type", "operands", "opset"),
    [
        ("LayerNormalization", ["x", "gain", "bias"], 17),
        ("LayerNormalization", ["x", "gain"], 17),
        ("RMSNormalization", ["x", "gain"], 23),
    ],
)
def test_norm_operators(op_type: str, operands: list[str], opset: int, tmp_path: Path) -> None:
    nodes = [helper.make_node(op_type, operands, ["y"], axis=-1)]
    (match,) = matches(tmp_path, nodes, layer_norm.PATTERN, opset)
    assert isinstance(match, Match)
    assert match.parts["gain"] == "gain" and ("bias" in match.parts) is (len(operands) == 3)


@pytest.mark.parametrize("rank", [3, 4])
def test_attention_operator(rank: int, tmp_path: Path) -> None:
    shape = [2, 5, 8] if rank == 3 else [2, 4, 5, 8]
    heads = {"q_num_heads": 4, "kv_num_heads": 4} if rank == 3 else {}
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **heads)
    path = save(tmp_path, [node], dict.fromkeys("qkv", shape), ["y"], opset=23)
    scene = scene_of(path)
    result = attention_operator.PATTERN.match(scene, scene.graph.nodes[0])
    assert isinstance(result, Match if rank == 4 else NearMiss)


def test_every_pattern_file_is_listed() -> None:
    import graphrebase.patterns as package

    folder = Path(str(package.__file__)).parent
    files = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert {p.name for p in PATTERNS} == files
