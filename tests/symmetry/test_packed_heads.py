"""q, k and v packed inside each head (BLOOM, Falcon): each has a group of its own."""

from __future__ import annotations

from pathlib import Path

from graph_models import ints, save, weight
from laws import assert_permutes
from onnx import helper

HEADS, SIZE, WIDTH = 3, 4, 6


def save_attention(folder: Path) -> Path:
    """Save attention whose packed map is laid out (head, q|k|v, inner)."""
    nodes = [
        helper.make_node("MatMul", ["x", "packed"], ["qkv"]),
        helper.make_node("Reshape", ["qkv", "grid"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["turned"], perm=[0, 2, 3, 1, 4]),
        *(
            helper.make_node("Gather", ["turned", str(i)], [letter], axis=2)
            for i, letter in enumerate("qkv")
        ),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["context"]),
        helper.make_node("Transpose", ["context"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "flat"], ["joined"]),
        helper.make_node("MatMul", ["joined", "out"], ["y"]),
    ]
    weights = {
        "packed": weight(WIDTH, HEADS * 3 * SIZE),
        "out": weight(HEADS * SIZE, WIDTH, seed=1),
        "grid": ints(0, 0, HEADS, 3, SIZE),
        "flat": ints(0, 0, HEADS * SIZE),
        **{str(i): ints(i).reshape(()) for i in range(3)},
    }
    return save(folder, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights)


def test_each_of_q_k_and_v_keeps_its_own_freedom(tmp_path: Path) -> None:
    feeds = [{"x": weight(*shape, seed=5)} for shape in ((4, 6, WIDTH), (1, 9, WIDTH))]
    symmetry = assert_permutes(save_attention(tmp_path), feeds, "out")
    found = sorted((g.size, g.count, g.over is not None) for g in symmetry.groups)
    assert found == [(HEADS, 1, False), (SIZE, HEADS, True), (SIZE, HEADS, True)]
    wide = [{m.tensor for m in g.members} for g in symmetry.groups if g.over is not None]
    assert {"packed"} in wide and {"packed", "out"} in wide
