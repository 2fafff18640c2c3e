"""A Reshape that mixes some axes leaves alone what lies before and behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import helper


def save_shifted(folder: Path, *, heads_first: bool) -> Path:
    """Save scores (h, S, 2 S) read as (h, 2 S, S), as XLNet shifts them, then summed over heads.

    With ``heads_first`` false the heads are the middle axis, and the Reshape mixes them.
    """
    order = [1, 0, 2] if heads_first else [0, 1, 2]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "grid"], ["q"]),
        helper.make_node("Transpose", ["q"], ["qh"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["qh"], ["kh"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["qh", "kh"], ["half"]),
        helper.make_node("Concat", ["half", "half"], ["scores"], axis=2),
        helper.make_node("Transpose", ["scores"], ["placed"], perm=order),
        helper.make_node("Transpose", ["scores"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Shape", ["turned"], ["shape"]),
        helper.make_node("Reshape", ["scores" if heads_first else "placed", "shape"], ["shifted"]),
        helper.make_node("Transpose", ["shifted"], ["back"], perm=[1, 2, 0]),
        helper.make_node("MatMul", ["back", "v"], ["y"]),
    ]
    if not heads_first:
        nodes[6] = helper.make_node("Transpose", ["scores"], ["placed"], perm=[1, 0, 2])
    weights = {"w": weight(3, 20), "v": weight(5, 2, seed=1), "grid": ints(0, 5, 4)}
    return save(folder, nodes, {"x": ["S", 3]}, ["y"], weights)


def test_heads_before_the_mixed_axes_stay_free(tmp_path: Path) -> None:
    path = save_shifted(tmp_path, heads_first=True)
    symmetry = assert_permutes(path, [{"x": weight(n, 3, seed=n)} for n in (4, 7)], "v")
    assert {("w", 1), ("v", 0)} in members(symmetry)


def test_control_heads_among_the_mixed_axes_are_frozen(tmp_path: Path) -> None:
    symmetry = symmetry_of(save_shifted(tmp_path, heads_first=False))
    assert {("w", 1), ("v", 0)} not in members(symmetry)
    assert any("Reshape" in f.reason for f in symmetry.frozen) or not np.any(symmetry.groups)
