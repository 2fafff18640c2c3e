"""The view repairs order, sees through aliases and inlines functions; it refuses broken graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graph_models import graph_of, ints, save, weight
from onnx import TensorProto, helper

from graphrebase.errors import InputError
from graphrebase.graph import Graph
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


def branched(tmp_path: Path, rights: tuple[str, str]) -> Graph:
    """Return x -> h -> If(h @ w or h @ v) -> z, where both branches call their value the same."""

    def branch(right: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["h", right], ["out"])
        value = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        return helper.make_graph([node], "branch", [], [value])

    then, otherwise = map(branch, rights)
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["flag"], to=TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["z"], then_branch=then, else_branch=otherwise),
    ]
    weights = {"u": weight(3, 5), "w": weight(5, 4), "v": weight(5, 4, seed=1)}
    return graph_of(save(tmp_path, nodes, {"x": ["B", 3]}, ["z"], weights))


@pytest.mark.parametrize("rights", [("w", "v"), ("w", "w")])
def test_both_branches_are_written_out(rights: tuple[str, str], tmp_path: Path) -> None:
    graph = branched(tmp_path, rights)
    *_, then, otherwise, merge = graph.nodes
    assert merge.inputs == ("flag", "z.then_branch::out", "z.else_branch::out")
    assert (then.inputs, otherwise.inputs) == (("h", rights[0]), ("h", rights[1]))
    (group,) = find_symmetry(graph).groups
    assert {(m.tensor, m.axis) for m in group.members} == {("u", 1), *((r, 0) for r in rights)}


def test_a_branch_that_is_never_taken_is_no_part_of_the_function(tmp_path: Path) -> None:
    """Where a size decides, exporters squeeze in one branch what has another size in the other."""

    def branch(op_type: str, inputs: list[str]) -> onnx.GraphProto:
        node = helper.make_node(op_type, inputs, ["out"])
        value = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        return helper.make_graph([node], "branch", [], [value])

    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["h"]),
        helper.make_node("Shape", ["h"], ["shape"], start=1),
        helper.make_node("Equal", ["shape", "one"], ["flag"]),
        helper.make_node(
            "If",
            ["flag"],
            ["z"],
            then_branch=branch("Squeeze", ["h", "one"]),
            else_branch=branch("Relu", ["h"]),
        ),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    weights = {"u": weight(3, 5), "w": weight(5, 4), "one": ints(1)}
    graph = graph_of(save(tmp_path, nodes, {"x": ["B", 3]}, ["y"], weights))
    assert [n.op_type for n in graph.nodes if n.op_type in ("Squeeze", "If", "Relu")] == ["Relu"]
    (group,) = find_symmetry(graph).groups
    assert {(m.tensor, m.axis) for m in group.members} == {("u", 1), ("w", 0)}


def test_a_weight_captured_by_a_loop_is_frozen(tmp_path: Path) -> None:
    """Loop bodies read outer initializers without listing them as inputs of the node."""
    ends = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
    ]
    results = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, None),
    ]
    inside = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("MatMul", ["s", "w"], ["t"]),
    ]
    body = helper.make_graph(inside, "body", ends, results)
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["h"]),
        helper.make_node("Loop", ["times", "", "h"], ["z"], body=body),
        helper.make_node("MatMul", ["x", "a"], ["k"]),
        helper.make_node("MatMul", ["k", "w"], ["y"]),
    ]
    weights = {"u": weight(3, 5), "w": weight(5, 5), "a": weight(3, 5, seed=2), "times": ints(2)}
    graph = graph_of(save(tmp_path, nodes, {"x": ["B", 3]}, ["z", "y"], weights))
    (node,) = [n for n in graph.nodes if n.op_type == "Loop"]
    assert node.captured == ("w",)
    assert not find_symmetry(graph).groups
