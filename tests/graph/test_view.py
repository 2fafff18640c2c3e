"""The view repairs order, sees through aliases and inlines functions; it refuses broken graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graph_models import graph_of, save, weight
from onnx import TensorProto, helper

from graphrebase.errors import InputError
from graphrebase.symmetry import find_symmetry


def test_order_is_repaired(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["h"], ["y"], "second"),
        helper.make_node("Tanh", ["x"], ["h"], "first"),
    ]
    graph = graph_of(save(tmp_path, nodes, {"x": [2, 3]}, ["y"]))
    assert [n.name for n in graph.nodes] == ["first", "second"]
    assert [n.index for n in graph.nodes] == [0, 1]


def test_aliases_of_aliases_are_seen_through(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
    ]
    graph = graph_of(save(tmp_path, nodes, {"x": [2, 3]}, ["y"], {"w": weight(3, 4)}))
    assert [n.op_type for n in graph.nodes] == ["MatMul"]
    assert graph.nodes[0].inputs == ("x", "w")


@pytest.mark.parametrize("source", ["nowhere", "y"])
def test_unknown_values_and_cycles_are_refused(source: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", [source], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    with pytest.raises(InputError, match="nothing in the graph computes"):
        graph_of(save(tmp_path, nodes, {"x": [2, 3]}, ["y"]))


def test_functions_are_inlined(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("F", ["x"], ["y"], domain="f")], {"x": [2, 3]}, ["y"])
    model = onnx.load(path)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("f", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("f", 1))
    onnx.save(model, path)
    assert [n.op_type for n in graph_of(path).nodes] == ["Relu"]


@pytest.mark.parametrize("captured", [True, False])
def test_a_weight_captured_by_a_branch_is_frozen(captured: bool, tmp_path: Path) -> None:
    """If bodies read outer initializers without listing them as inputs of the node."""

    def branch(name: str) -> onnx.GraphProto:
        right = "w" if captured else "v"
        node = helper.make_node("MatMul", ["h", right], [name])
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [value])

    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch("t"), else_branch=branch("e")),
        helper.make_node("MatMul", ["x", "a"], ["k"]),
        helper.make_node("MatMul", ["k", "w"], ["y"]),
    ]
    weights = {
        "u": weight(3, 5),
        "w": weight(5, 4),
        "v": weight(5, 4, seed=1),
        "a": weight(3, 5, seed=2),
    }
    graph = graph_of(save(tmp_path, nodes, {"x": ["B", 3]}, ["z", "y"], weights))
    (node,) = [n for n in graph.nodes if n.op_type == "If"]
    assert "h" in node.captured and ("w" in node.captured) is captured
    moved = {m.tensor for g in find_symmetry(graph).groups for m in g.members}
    assert ("w" in moved) is not captured
    assert "u" not in moved
