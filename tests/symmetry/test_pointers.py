"""Experts chosen by a router: free as long as their numbers only look weights up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import NodeProto, TensorProto, helper

EXPERTS, WIDTH, UNITS = 3, 4, 5
FEEDS = [{"x": weight(tokens, WIDTH, seed=tokens)} for tokens in (6, 11)]


def save_experts(
    folder: Path, extra: Sequence[NodeProto] = (), second: Sequence[NodeProto] = ()
) -> Path:
    """Save x (T, 4) -> the best of 3 experts, each an MLP with 5 units, weighted -> y (T, 4).

    Args:
        folder: where to save.
        extra: nodes after the first look-up; they may give the output ``z``.
        second: nodes that make the index ``other`` of the second look-up; the same if empty.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"]),
        helper.make_node("TopK", ["shares", "one"], ["share", "number"]),
        helper.make_node("Reshape", ["number", "flat"], ["index"]),
        *second,
        helper.make_node("Gather", ["up", "index"], ["u"], axis=0),
        helper.make_node("Gather", ["down", "other" if second else "index"], ["d"], axis=0),
        helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
        helper.make_node("MatMul", ["u", "column"], ["pre"]),
        helper.make_node("Relu", ["pre"], ["hidden"]),
        helper.make_node("MatMul", ["d", "hidden"], ["out"]),
        helper.make_node("Squeeze", ["out", "last"], ["rows"]),
        helper.make_node("Mul", ["rows", "share"], ["y"]),
        *extra,
    ]
    weights = {
        "router": weight(WIDTH, EXPERTS),
        "up": weight(EXPERTS, UNITS, WIDTH, seed=1),
        "down": weight(EXPERTS, WIDTH, UNITS, seed=2),
        "one": ints(1),
        "flat": ints(-1),
        "last": ints(-1),
        "zero": ints(0),
    }
    outputs = ["y", *[o for n in extra for o in n.output if o == "z"]]
    return save(folder, nodes, {"x": ["T", WIDTH]}, outputs, weights)


def test_experts_and_the_units_inside_each_are_free(tmp_path: Path) -> None:
    symmetry = assert_permutes(save_experts(tmp_path), FEEDS, "down")
    assert_permutes(save_experts(tmp_path), FEEDS, "router")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(EXPERTS, 1), (UNITS, EXPERTS)]
    assert {("router", 1), ("up", 0), ("down", 0)} in members(symmetry)
    assert {("up", 1), ("down", 2)} in members(symmetry)


def test_a_number_that_is_used_as_a_number_freezes_the_experts(tmp_path: Path) -> None:
    extra = [
        helper.make_node("Cast", ["index"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["float"], ["z"]),
    ]
    symmetry = assert_permutes(save_experts(tmp_path, extra), FEEDS, "down")
    # The units inside every expert stay free: three orders, none of which hangs on a free axis.
    assert [(g.size, g.count) for g in symmetry.groups] == [(UNITS, 1)] * EXPERTS
    reasons = {f.reason for f in symmetry.frozen if f.tensor == "router"}
    assert "the number of an index along it is used by Neg" in reasons


def test_a_number_that_is_an_output_freezes_the_experts(tmp_path: Path) -> None:
    extra = [helper.make_node("Identity", ["number"], ["z"])]
    path = save_experts(tmp_path, extra)
    reasons = {f.reason for f in symmetry_of(path).frozen if f.tensor == "router"}
    assert "output 'z' holds the number of an index" in reasons


def test_two_different_look_ups_share_no_order_of_units(tmp_path: Path) -> None:
    """The units of one expert meet those of the next: all experts must have one order."""
    second = [
        helper.make_node("Neg", ["shares"], ["worst"]),
        helper.make_node("TopK", ["worst", "one"], ["low", "lowest"]),
        helper.make_node("Reshape", ["lowest", "flat"], ["other"]),
    ]
    symmetry = assert_permutes(save_experts(tmp_path, second=second), FEEDS, "down")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(EXPERTS, 1), (UNITS, 1)]


def save_gates(folder: Path, dense: NodeProto, *more: NodeProto) -> Path:
    """Save x (T, 4) -> the best 2 of 3 experts -> their gates among zeros -> y (T, 5)."""
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["logits"]),
        helper.make_node("TopK", ["logits", "two"], ["share", "number"]),
        helper.make_node("Shape", ["logits"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        dense,
        *more,
        helper.make_node("MatMul", ["gates", "table"], ["rows"]),
        helper.make_node("Relu", ["rows"], ["y"]),
    ]
    weights = {
        "router": weight(WIDTH, EXPERTS),
        "table": weight(EXPERTS, UNITS, seed=1),
        "two": ints(2),
        "depth": ints(EXPERTS),
        "off_on": weight(2),
        "second": ints(1),
    }
    return save(folder, nodes, {"x": ["T", WIDTH]}, ["y"], weights)


def test_gates_written_at_the_numbers_follow_the_experts(tmp_path: Path) -> None:
    write = helper.make_node("ScatterElements", ["zeros", "number", "share"], ["gates"], axis=1)
    symmetry = assert_permutes(save_gates(tmp_path, write), FEEDS, "table")
    assert {("router", 1), ("table", 0)} in members(symmetry)


def test_numbers_turned_into_rows_follow_the_experts(tmp_path: Path) -> None:
    rows = helper.make_node("OneHot", ["number", "depth", "off_on"], ["each"])
    total = helper.make_node("ReduceSum", ["each", "second"], ["gates"], keepdims=0)
    symmetry = assert_permutes(save_gates(tmp_path, rows, total), FEEDS, "table")
    assert {("router", 1), ("table", 0)} in members(symmetry)


def test_control_gates_written_in_order_of_rank_keep_the_experts_apart(tmp_path: Path) -> None:
    """Written along the tokens, a number of an expert is a number of a token."""
    write = helper.make_node("ScatterElements", ["zeros", "number", "share"], ["gates"], axis=0)
    frozen = {(f.tensor, f.axis) for f in symmetry_of(save_gates(tmp_path, write)).frozen}
    assert {("router", 1), ("table", 0)} <= frozen
