"""What a constant may do before any rule has seen it, and what uses leave of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import TensorProto, helper

from graphrebase.graph.equation import Equation

HEADS = {"wq": weight(6, 2, 3, seed=1), "wo": weight(2, 3, 6, seed=2)}


def feeds(width: int, *names: str) -> list[dict[str, np.ndarray]]:
    return [
        {name: weight(2, length, width, seed=length + i) for i, name in enumerate(names or ("x",))}
        for length in (4, 7)
    ]


@pytest.mark.parametrize(
    ("into", "out"),
    [
        ("bsd,dhk->bhsk", "bhsk,hkd->bsd"),
        ("...d,dhk->...hk", "...hk,hkd->...d"),
        ("bsd,dhk->bshk", "hkd,bshk->bsd"),
        ("bsd,dhk", "hkbs,hkd"),  # implicit output: bhks, then bds
    ],
)
def test_units_move_inside_each_head_of_an_einsum(tmp_path: Path, into: str, out: str) -> None:
    second = ["wo", "q"] if out.startswith("hkd") else ["q", "wo"]
    if "->" not in into:
        nodes = [
            helper.make_node("Einsum", ["x", "wq"], ["r"], equation=into),
            helper.make_node("Transpose", ["r"], ["q"], perm=[1, 2, 0, 3]),
        ]
        if Equation.parse(into).output != "bhks":
            pytest.fail("letters once, sorted")
    else:
        nodes = [helper.make_node("Einsum", ["x", "wq"], ["q"], equation=into)]
    nodes.append(helper.make_node("Einsum", second, ["y"], equation=out))
    path = save(tmp_path, nodes, {"x": ["B", "S", 6]}, ["y"], HEADS)
    symmetry = assert_permutes(path, feeds(6), "wo")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(2, 1), (3, 2)]


def test_one_gain_for_all_heads_ties_what_is_inside_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Einsum", ["x", "wq"], ["r"], equation="bsd,dhk->bhsk"),
        helper.make_node("Mul", ["r", "gain"], ["q"]),
        helper.make_node("Einsum", ["q", "wo"], ["y"], equation="bhsk,hkd->bsd"),
    ]
    weights = {**HEADS, "gain": weight(3, seed=3)}
    path = save(tmp_path, nodes, {"x": ["B", "S", 6]}, ["y"], weights)
    symmetry = assert_permutes(path, feeds(6), "gain")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(2, 1), (3, 1)]


def test_a_diagonal_is_not_followed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Einsum", ["h"], ["y"], equation="bii->bi"),
    ]
    path = save(tmp_path, nodes, {"x": ["B", 4, 6]}, ["y"], {"w": weight(6, 4)})
    assert members(symmetry_of(path)) == []


def test_a_batch_of_weights_has_units_of_its_own_in_each(tmp_path: Path) -> None:
    """Experts: x (B, S, 6) -> w1 (E, 6, 5) -> Relu -> w2 (E, 5, 6), summed over experts."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["wide"]),
        helper.make_node("MatMul", ["wide", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["e"]),
        helper.make_node("ReduceSum", ["e", "one"], ["y"], keepdims=0),
    ]
    weights = {"w1": weight(3, 6, 5, seed=1), "w2": weight(3, 5, 6, seed=2), "one": ints(1)}
    path = save(tmp_path, nodes, {"x": ["B", "S", 6]}, ["y"], weights)
    symmetry = assert_permutes(path, feeds(6), "w2")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(3, 1), (5, 3)]


def save_packed(
    folder: Path, *, both: bool = False, split: bool = False, half: bool = False
) -> Path:
    """Save two streams that meet one packed weight (12, 6): rows [0, 4) and rows [4, 12).

    The legacy exporter writes a Slice for each, dynamo one Split. `half`: stored in float16.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "wx"], ["hx"]),
        helper.make_node("MatMul", ["m", "wm"], ["hm"]),
    ]
    if split:
        nodes.append(helper.make_node("Split", ["packed", "sizes"], ["px", "pm"], axis=0))
    for name, start, end in (("x", 0, 4), ("m", 4, 12)):
        if not split:
            bounds = [f"at{start}", f"at{end}", "zero"]
            nodes.append(helper.make_node("Slice", ["packed", *bounds], [f"p{name}"]))
        nodes += [
            helper.make_node("Transpose", [f"p{name}"], [f"t{name}"], perm=[1, 0]),
            helper.make_node("MatMul", [f"h{name}", f"t{name}"], [f"y{name}"]),
        ]
    if both:  # read whole as well: the columns mean one thing
        nodes += [
            helper.make_node("Transpose", ["packed"], ["whole"], perm=[1, 0]),
            helper.make_node("MatMul", ["hx", "whole"], ["z"]),
        ]
    weights = {"wx": weight(3, 6), "wm": weight(5, 6, seed=1), "packed": weight(12, 6, seed=2)}
    weights |= {"at0": ints(0), "at4": ints(4), "at12": ints(2**40), "zero": ints(0)}
    weights["sizes"] = ints(4, 8)
    if half:
        weights["stored"] = weights.pop("packed").astype(np.float16)
        nodes.insert(0, helper.make_node("Cast", ["stored"], ["packed"], to=TensorProto.FLOAT))
    inputs = {"x": ["B", "S", 3], "m": ["B", "S", 5]}
    return save(folder, nodes, inputs, ["yx", "ym", *(["z"] if both else [])], weights)


@pytest.mark.parametrize("split", [False, True])
def test_parts_of_a_packed_weight_read_streams_of_their_own(tmp_path: Path, split: bool) -> None:
    path = save_packed(tmp_path, split=split)
    inputs = [{**a, **b} for a, b in zip(feeds(3, "x"), feeds(5, "m"), strict=True)]
    symmetry = assert_permutes(path, inputs, "wx")
    assert sorted(map(sorted, members(symmetry))) == [
        [("packed", 1), ("wm", 1)],
        [("packed", 1), ("wx", 1)],
    ]


def test_parts_of_a_packed_weight_in_another_float_type_are_as_free(tmp_path: Path) -> None:
    path = save_packed(tmp_path, half=True)
    inputs = [{**a, **b} for a, b in zip(feeds(3, "x"), feeds(5, "m"), strict=True)]
    symmetry = assert_permutes(path, inputs, "wx")
    assert sorted(map(sorted, members(symmetry))) == [
        [("stored", 1), ("wm", 1)],
        [("stored", 1), ("wx", 1)],
    ]


def save_gains(folder: Path, gain: np.ndarray) -> Path:
    """Save two hidden layers of 6 units that one gain in float16, cast once, scales."""
    nodes = [helper.make_node("Cast", ["stored"], ["gain"], to=TensorProto.FLOAT)]
    for layer in ("a", "b"):
        nodes += [
            helper.make_node("MatMul", ["x", f"w{layer}"], [f"h{layer}"]),
            helper.make_node("Mul", [f"h{layer}", "gain"], [f"s{layer}"]),
            helper.make_node("MatMul", [f"s{layer}", f"v{layer}"], [f"y{layer}"]),
        ]
    weights = {"wa": weight(3, 6), "wb": weight(3, 6, seed=1), "stored": gain.astype(np.float16)}
    weights |= {"va": weight(6, 2, seed=2), "vb": weight(6, 2, seed=3)}
    return save(folder, nodes, {"x": ["B", "S", 3]}, ["ya", "yb"], weights)


def test_equal_gains_that_an_exporter_merged_tie_nothing_when_cast(tmp_path: Path) -> None:
    symmetry = assert_permutes(save_gains(tmp_path, np.ones(6)), feeds(3), "wa")
    assert members(symmetry) == [{("wa", 1), ("va", 0)}, {("wb", 1), ("vb", 0)}]


def test_control_gains_that_differ_tie_what_they_scale(tmp_path: Path) -> None:
    assert len(symmetry_of(save_gains(tmp_path, np.arange(6))).groups) == 1


def test_rows_that_no_part_reads_are_no_group(tmp_path: Path) -> None:
    """The rows of a table of positions that an image of one size has."""
    nodes = [
        helper.make_node("Slice", ["table", "at0", "at4", "at0"], ["places"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "places"], ["y"]),
    ]
    weights = {"table": weight(12, 6), "w": weight(3, 6, seed=1), "at0": ints(0), "at4": ints(4)}
    path = save(tmp_path, nodes, {"x": ["B", 4, 3]}, ["y"], weights)
    assert members(symmetry_of(path)) == []


def test_control_a_packed_weight_that_is_read_whole_too_ties_them(tmp_path: Path) -> None:
    assert len(symmetry_of(save_packed(tmp_path, both=True)).groups) == 1


def test_uneven_parts_that_read_one_stream_move_as_freely_as_matrices_of_their_own(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("Split", ["packed", "sizes"], ["a", "b"], axis=0),
        helper.make_node("Transpose", ["a"], ["ta"], perm=[1, 0]),
        helper.make_node("Transpose", ["b"], ["tb"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "ta"], ["p"]),
        helper.make_node("MatMul", ["x", "tb"], ["q"]),
        helper.make_node("MatMul", ["p", "vp"], ["y"]),
        helper.make_node("MatMul", ["q", "vq"], ["z"]),
    ]
    weights = {"packed": weight(10, 3), "vp": weight(6, 2, seed=1), "vq": weight(4, 2, seed=2)}
    weights["sizes"] = ints(6, 4)
    path = save(tmp_path, nodes, {"x": ["B", "S", 3]}, ["y", "z"], weights)
    symmetry = assert_permutes(path, feeds(3), "vp")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(4, 1), (6, 1)]


def test_equal_values_for_every_head_tie_nothing(tmp_path: Path) -> None:
    """The cross-attention of T5 adds a bias of zeros, one for all layers, to its scores."""
    nodes = []
    for layer in ("a", "b"):
        nodes += [
            helper.make_node("MatMul", ["x", f"w{layer}"], [f"h{layer}"]),
            helper.make_node("Add", [f"h{layer}", "zeros"], [f"s{layer}"]),
            helper.make_node("MatMul", [f"s{layer}", f"v{layer}"], [f"y{layer}"]),
        ]
    nodes.insert(0, helper.make_node("ConstantOfShape", ["six"], ["zeros"]))
    weights = {"wa": weight(3, 6), "wb": weight(3, 6, seed=1), "six": ints(6)}
    weights |= {"va": weight(6, 2, seed=2), "vb": weight(6, 2, seed=3)}
    path = save(tmp_path, nodes, {"x": ["B", "S", 3]}, ["ya", "yb"], weights)
    symmetry = assert_permutes(path, feeds(3), "wa")
    assert members(symmetry) == [{("wa", 1), ("va", 0)}, {("wb", 1), ("vb", 0)}]


def test_values_of_which_only_the_shape_is_read_tie_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gather", ["h", "last"], ["one"], axis=2),
        helper.make_node("Shape", ["one"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("MatMul", ["h", "v"], ["k"]),
        helper.make_node("Unsqueeze", ["zeros", "two"], ["wide"]),
        helper.make_node("Add", ["k", "wide"], ["y"]),
    ]
    weights = {"w": weight(3, 6), "v": weight(6, 2, seed=1), "two": ints(2)}
    weights["last"] = np.array(-1, np.int64)
    path = save(tmp_path, nodes, {"x": ["B", "S", 3]}, ["y"], weights)
    symmetry = assert_permutes(path, feeds(3), "v")
    assert members(symmetry) == [{("w", 1), ("v", 0)}]
