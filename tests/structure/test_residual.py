"""Where blocks join the residual stream: one after the other, in parallel, after a norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_models import save, scene_of, weight
from onnx import NodeProto, helper

from graphrebase.structure.residual import Residual, find_residual

WIDTH = 6


def residuals(
    folder: Path, adds: list[NodeProto], **given: np.ndarray
) -> dict[str, Residual | None]:
    """Return the residual of the branches a = f(x) and m = g(x), joined by ``adds``."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["x", "w2"], ["m"]),
        *adds,
    ]
    weights = {"w1": weight(WIDTH, WIDTH), "w2": weight(WIDTH, WIDTH), "gain": weight(WIDTH)}
    weights |= given
    path = save(folder, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights)
    scene = scene_of(path)
    return {name: find_residual(scene.graph, scene.shapes, name) for name in ("a", "m")}


def test_blocks_in_parallel_summed_first_share_the_add_of_the_stream(tmp_path: Path) -> None:
    adds = [
        helper.make_node("Add", ["a", "m"], ["both"]),
        helper.make_node("Add", ["both", "x"], ["y"]),
    ]
    found = residuals(tmp_path, adds)
    for residual in found.values():
        assert residual is not None
        assert residual.node.outputs == ("y",) and residual.skip == 1 and residual.branch == 0


def test_blocks_in_parallel_added_one_by_one_have_an_add_each(tmp_path: Path) -> None:
    adds = [
        helper.make_node("Add", ["x", "a"], ["half"]),
        helper.make_node("Add", ["half", "m"], ["y"]),
    ]
    found = residuals(tmp_path, adds)
    assert [r.node.outputs for r in found.values() if r] == [("half",), ("y",)]
    assert [r.skip for r in found.values() if r] == [0, 0]


def test_a_norm_may_stand_before_the_add(tmp_path: Path) -> None:
    adds = [
        helper.make_node("Add", ["a", "m"], ["both"]),
        helper.make_node("LayerNormalization", ["both", "gain"], ["normed"]),
        helper.make_node("Add", ["normed", "x"], ["y"]),
    ]
    assert all(r and r.node.outputs == ("y",) for r in residuals(tmp_path, adds).values())


def test_a_norm_before_the_add_may_be_written_out(tmp_path: Path) -> None:
    """x / sqrt(mean(x * x)) uses a value several times, and is one way to the Add all the same."""
    adds = [
        helper.make_node("Add", ["a", "m"], ["both"]),
        helper.make_node("Mul", ["both", "both"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[-1]),
        helper.make_node("Sqrt", ["mean"], ["size"]),
        helper.make_node("Div", ["both", "size"], ["normed"]),
        helper.make_node("Mul", ["gain", "normed"], ["scaled"]),
        helper.make_node("Add", ["scaled", "x"], ["y"]),
    ]
    found = residuals(tmp_path, adds)
    assert all(r and r.node.outputs == ("y",) and r.skip == 1 for r in found.values())


def test_control_a_stream_is_no_block_of_another_sum(tmp_path: Path) -> None:
    """What is used elsewhere too does not close at the Add behind a sum with another value."""
    adds = [
        helper.make_node("Add", ["a", "m"], ["both"]),
        helper.make_node("Relu", ["a"], ["elsewhere"]),
        helper.make_node("Add", ["both", "x"], ["late"]),
        helper.make_node("Add", ["late", "elsewhere"], ["y"]),
    ]
    assert residuals(tmp_path, adds)["a"] is None


def test_what_passes_by_may_be_scaled(tmp_path: Path) -> None:
    """DeepNorm: the stream times a number, plus the block."""
    adds = [
        helper.make_node("Mul", ["x", "number"], ["scaled"]),
        helper.make_node("Add", ["scaled", "a"], ["half"]),
        helper.make_node("Add", ["half", "m"], ["y"]),
    ]
    found = residuals(tmp_path, adds, number=weight(1))
    assert [(r.node.outputs, r.skip) for r in found.values() if r] == [(("half",), 0), (("y",), 0)]


def test_control_a_number_per_channel_makes_it_another_value(tmp_path: Path) -> None:
    adds = [
        helper.make_node("Mul", ["x", "number"], ["scaled"]),
        helper.make_node("Add", ["scaled", "a"], ["y"]),
    ]
    assert residuals(tmp_path, adds, number=weight(WIDTH))["a"] is None


def test_control_a_sum_of_branches_alone_is_no_residual(tmp_path: Path) -> None:
    adds = [helper.make_node("Add", ["a", "m"], ["y"])]
    assert residuals(tmp_path, adds) == {"a": None, "m": None}
