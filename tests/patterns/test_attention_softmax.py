"""Attention written out is found through scale, mask, cast and guard; other Softmaxes are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import save, scene_of
from graphrebase.patterns.attention_softmax import PATTERN
from onnx import TensorProto, helper

from graphrebase.graph.pattern import Match, NearMiss

Q = {"q": [2, 4, 5, 8], "k": [2, 4, 8, 5], "v": [2, 4, 5, 8]}


def found(folder: Path, nodes: list[object], inputs: dict[str, list[int]], output: str) -> object:
    scale = {"scale": np.array(0.3, np.float32), "mask": np.zeros((5, 5), np.float32)}
    scale |= {"kernel": np.ones((4, 4, 1, 1), np.float32), "mix": np.ones((4, 4), np.float32)}
    scene = scene_of(save(folder, nodes, inputs, [output], scale))  # type: ignore[arg-type]
    node = next(n for n in scene.graph.nodes if n.op_type == "Softmax")
    assert node.op_type in PATTERN.core
    return PATTERN.match(scene, node)


BETWEEN = {
    "plain": [],
    "scale": [("Mul", ["scores", "scale"])],
    "division and mask": [("Div", ["scores", "scale"]), ("Add", ["", "mask"])],
    "mask first operand": [("Add", ["mask", ""])],
    "cast": [("Cast", ["scores"])],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_attention(name: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["q", "k"], ["scores"])]
    last = "scores"
    for number, (op_type, inputs) in enumerate(BETWEEN[name]):
        operands = [i if i in ("scale", "mask") else last for i in inputs]
        extra = {"to": TensorProto.FLOAT} if op_type == "Cast" else {}
        last = f"s{number}"
        nodes.append(helper.make_node(op_type, operands, [last], **extra))
    nodes += [
        helper.make_node("Softmax", [last], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    match = found(tmp_path, nodes, Q, "y")
    assert isinstance(match, Match)
    assert dict(match.parts) == {"query": "q", "key": "k", "value": "v", "output": "y"}


def talking(mix: str) -> list[object]:
    """Return attention whose scores and weights are mixed over heads."""
    ends = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
    return [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Conv", ["scores", "kernel"], ["mixed"]),
        helper.make_node("Softmax", ["mixed"], ["p"], axis=-1),
        helper.make_node("Transpose", ["p"], ["turned"], **ends[0]),
        helper.make_node("MatMul", ["turned", mix], ["again"]),
        helper.make_node("Transpose", ["again"], ["weights"], **ends[1]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]


def test_heads_may_be_mixed_by_constants(tmp_path: Path) -> None:
    match = found(tmp_path, talking("mix"), Q, "y")
    assert isinstance(match, Match)
    assert dict(match.parts) == {"query": "q", "key": "k", "value": "v", "output": "y"}


def test_control_weights_times_something_computed_are_another_value(tmp_path: Path) -> None:
    answer = found(tmp_path, talking("other"), {**Q, "other": [2, 5, 4, 4]}, "y")
    assert not isinstance(answer, Match) or answer.parts["output"] != "y"


def test_a_sink_takes_a_share(tmp_path: Path) -> None:
    """GPT-OSS: one more score per head, dropped after the Softmax."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Concat", ["scores", "sink"], ["more"], axis=-1),
        helper.make_node("Softmax", ["more"], ["p"], axis=-1),
        helper.make_node("Slice", ["p", "zero", "five", "last"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    weights = {"sink": np.zeros((2, 4, 5, 1), np.float32)}
    weights |= {n: np.array([i], np.int64) for n, i in (("zero", 0), ("five", 5), ("last", -1))}
    scene = scene_of(save(tmp_path, nodes, Q, ["y"], weights))
    match = PATTERN.match(scene, scene.graph.nodes[2])
    assert isinstance(match, Match) and match.parts["value"] == "v"


def test_half_an_attention_is_a_near_miss(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    miss = found(tmp_path, nodes, Q, "y")
    assert isinstance(miss, NearMiss) and "with v" in miss.reason


def test_a_classifier_is_not_attention(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["q"], ["y"], axis=-1)]
    assert found(tmp_path, nodes, Q, "y") is None


def test_a_router_is_a_different_thing(tmp_path: Path) -> None:
    """Softmax over experts, between a linear map and weighted outputs."""
    nodes = [
        helper.make_node("MatMul", ["x", "gate"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("Mul", ["shares", "x"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "gate"], ["y"]),
    ]
    path = save(tmp_path, nodes, {"x": ["T", 5]}, ["y"], {"gate": np.ones((5, 5), np.float32)})
    scene = scene_of(path)
    assert PATTERN.match(scene, scene.graph.nodes[1]) is None


TURNED = {"q": [8, 8, 5], "k": [8, 6, 8], "v": [8, 6, 8], "w": [8, 8, 6]}


def turned(second: list[str], over: int) -> list[object]:
    """Return scores of keys by queries, k q^T (8, 6, 5), and what reads them."""
    return [
        helper.make_node("MatMul", ["k", "q"], ["scores"]),
        helper.make_node("Reshape", ["scores", "apart"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "last"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=over),
        helper.make_node("Unsqueeze", ["p", "last"], ["again"]),
        helper.make_node("Reshape", ["again", "joined"], ["weights"]),
        helper.make_node("Transpose", ["weights"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", second, ["y"]),
    ]


SHAPES = {
    "apart": np.array([2, 4, 6, 5, 1]),
    "joined": np.array([8, 6, 5]),
    "last": np.array([4]),
}


@pytest.mark.parametrize(
    ("second", "turns"),
    [(["turned", "v"], {"query"}), (["w", "weights"], {"query", "value", "output"})],
)
def test_products_that_are_written_transposed(
    second: list[str], turns: set[str], tmp_path: Path
) -> None:
    """tf2onnx writes the Einsum of Keras so; Softmax is over the keys, the last axis but one."""
    inputs = {name: TURNED[name] for name in ("q", "k", *({"v", "w"} & set(second)))}
    path = save(tmp_path, turned(second, 2), inputs, ["y"], SHAPES)  # type: ignore[arg-type]
    scene = scene_of(path)
    (node,) = (n for n in scene.graph.nodes if n.op_type == "Softmax")
    match = PATTERN.match(scene, node)
    assert isinstance(match, Match)
    value = next(name for name in second if name in TURNED)
    assert dict(match.parts) == {"query": "q", "key": "k", "value": value, "output": "y"}
    turned_parts = {part.removesuffix("_layout") for part in match.facts}
    assert turned_parts == turns


def test_control_the_axis_that_softmax_normalises_must_meet_the_values(tmp_path: Path) -> None:
    inputs = {name: TURNED[name] for name in ("q", "k", "v")}
    path = save(tmp_path, turned(["turned", "v"], 3), inputs, ["y"], SHAPES)  # type: ignore[arg-type]
    scene = scene_of(path)
    (node,) = (n for n in scene.graph.nodes if n.op_type == "Softmax")
    missed = PATTERN.match(scene, node)
    assert isinstance(missed, NearMiss) and "another axis" in missed.reason
