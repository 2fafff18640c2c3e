"""Streams: what passes by a block says which blocks write to one stream."""

from __future__ import annotations

from pathlib import Path

from graph_models import graph_of, ints, save, weight
from onnx import NodeProto, helper
from zoo_fixture import zoo_model

from graphrebase.graph import infer_shapes
from graphrebase.io import read_model
from graphrebase.structure import find_structure, summary
from graphrebase.structure.residual import find_residual
from graphrebase.structure.streams import find_streams, origins


def block(source: str, name: str, width: int = 6) -> list[NodeProto]:
    """x + W x, all named after the block."""
    return [
        helper.make_node("MatMul", [source, f"w{width}"], [f"{name}_branch"]),
        helper.make_node("Add", [source, f"{name}_branch"], [name]),
    ]


def test_a_linear_map_ends_a_stream_and_a_norm_does_not(tmp_path: Path) -> None:
    nodes = [
        *block("x", "a"),
        helper.make_node("LayerNormalization", ["a", "gain"], ["normed"]),
        *block("normed", "b"),
        helper.make_node("MatMul", ["b", "merge"], ["wide"]),
        *block("wide", "c", 12),
    ]
    weights = {"w6": weight(6, 6), "w12": weight(12, 12), "merge": weight(6, 12)}
    weights["gain"] = weight(6, seed=1)
    graph = graph_of(save(tmp_path, nodes, {"x": ["B", "S", 6]}, ["c"], weights))
    shapes = infer_shapes(graph)
    residuals = [find_residual(graph, shapes, f"{name}_branch") for name in "abc"]
    assert find_streams(graph, residuals) == [0, 0, 1]
    assert origins(graph, "normed", {"a"}) == {"a"}
    assert origins(graph, "wide") == {"wide"}


def test_shifted_windows_lie_between_a_block_and_its_stream(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w6"], ["branch"]),
        helper.make_node("Slice", ["branch", "zero", "one", "one"], ["head"]),
        helper.make_node("Slice", ["branch", "one", "end", "one"], ["tail"]),
        helper.make_node("Concat", ["tail", "head"], ["rolled"], axis=1),
        helper.make_node("Add", ["x", "rolled"], ["y"]),
    ]
    weights = {"w6": weight(6, 6), "zero": ints(0), "one": ints(1), "end": ints(2**40)}
    graph = graph_of(save(tmp_path, nodes, {"x": ["B", 4, 6]}, ["y"], weights))
    residual = find_residual(graph, infer_shapes(graph), "branch")
    assert residual is not None and residual.node.outputs == ("y",)


def test_a_stack_is_told_block_by_block_although_its_first_one_reads_less() -> None:
    """The first self-attention of a decoder does not depend on what the encoder reads."""
    found = summary(find_structure(read_model(zoo_model("encoder-decoder-ts17-eager").path)))
    told = [(b["tower"], "cross" if b.get("cross") else b["kind"]) for b in found["blocks"]]
    assert told == [
        *[(0, "attention"), (0, "mlp")] * 2,
        *[(1, "attention"), (1, "cross"), (1, "mlp")] * 2,
    ]
