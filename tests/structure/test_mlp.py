"""MLPs: plain, gated by two maps, gated by halves of a packed map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import ints, save, scene_of, weight
from onnx import NodeProto, helper

from graphrebase.structure.linear import find_linears
from graphrebase.structure.mlp import Mlp, find_mlps

WIDTH, UNITS = 6, 8


def mlps(folder: Path, middle: list[NodeProto], first: int) -> list[Mlp]:
    """Return the MLPs of x + down(middle(up(x))), ``first`` columns in the first map."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["u"]),
        *middle,
        helper.make_node("MatMul", ["h", "down"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["y"]),
    ]
    weights = {"up": weight(WIDTH, first), "down": weight(UNITS, WIDTH), "halves": ints(8, 8)}
    weights["side"] = weight(WIDTH, UNITS, seed=3)
    weights |= {f"kernel{n}": weight(UNITS, UNITS // n, 3) for n in (1, UNITS)}
    path = save(folder, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights)
    scene = scene_of(path)
    return find_mlps(scene.graph, scene.shapes, find_linears(scene.graph, scene.shapes), [])


SILU = [
    helper.make_node("Sigmoid", ["g"], ["s"]),
    helper.make_node("Mul", ["g", "s"], ["a"]),
    helper.make_node("Mul", ["a", "b"], ["h"]),
]


def test_halves_of_a_packed_map_are_gate_and_up(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["u", "halves"], ["g", "b"], axis=-1)
    (mlp,) = mlps(tmp_path, [split, *SILU], 2 * UNITS)
    assert mlp.gate is mlp.up and mlp.gate_index is not None
    np.testing.assert_array_equal(mlp.gate_index, np.arange(UNITS))
    np.testing.assert_array_equal(mlp.up_index, np.arange(UNITS, 2 * UNITS))


def test_two_maps_are_gate_and_up(tmp_path: Path) -> None:
    middle = [
        helper.make_node("MatMul", ["x", "side"], ["b"]),
        helper.make_node("Identity", ["u"], ["g"]),
        *SILU,
    ]
    (mlp,) = mlps(tmp_path, middle, UNITS)
    assert mlp.gate is not None
    assert (mlp.gate.weight.tensor, mlp.up.weight.tensor) == ("up", "side")


def test_a_size_over_all_positions_is_read_beside_the_units(tmp_path: Path) -> None:
    """ConvNeXt V2: units times their norm over positions."""
    middle = [
        helper.make_node("Relu", ["u"], ["a"]),
        helper.make_node("ReduceL2", ["a"], ["size"], axes=[1]),
        helper.make_node("Mul", ["a", "size"], ["h"]),
    ]
    (mlp,) = mlps(tmp_path, middle, UNITS)
    assert mlp.gate is None and mlp.width == UNITS


@pytest.mark.parametrize("groups", [UNITS, 1])
def test_a_convolution_over_positions_must_keep_units_apart(tmp_path: Path, groups: int) -> None:
    """SegFormer: a depthwise convolution between the maps; a full one mixes units."""
    middle = [
        helper.make_node("Transpose", ["u"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["turned", f"kernel{groups}"], ["c"], group=groups, pads=[1, 1]),
        helper.make_node("Transpose", ["c"], ["back"], perm=[0, 2, 1]),
        helper.make_node("Relu", ["back"], ["h"]),
    ]
    assert len(mlps(tmp_path, middle, UNITS)) == (groups == UNITS)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Selu", "Celu", "Softsign", "Clip", "Exp"])
def test_one_map_is_no_gate(tmp_path: Path, activation: str) -> None:
    (mlp,) = mlps(tmp_path, [helper.make_node(activation, ["u"], ["h"])], UNITS)
    assert mlp.gate is None and mlp.width == UNITS


def test_quantisation_that_clips_at_zero_is_an_activation(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["u"]),
        helper.make_node("MatMul", ["u", "down"], ["d"]),
        helper.make_node("Add", ["d", "x"], ["y"]),
    ]
    weights = {"up": weight(WIDTH, UNITS), "down": weight(UNITS, WIDTH)}
    scene = scene_of(save(tmp_path, nodes, {"x": ["B", "T", WIDTH]}, ["y"], weights))
    given = scene.graph, scene.shapes, find_linears(scene.graph, scene.shapes), ()
    assert [mlp.width for mlp in find_mlps(*given, {"u"})] == [UNITS]
    assert find_mlps(*given) == []


def test_control_without_a_nonlinearity_it_is_no_mlp(tmp_path: Path) -> None:
    assert mlps(tmp_path, [helper.make_node("Neg", ["u"], ["h"])], UNITS) == []


def test_control_shifts_and_gates_of_a_block_are_no_mlp(tmp_path: Path) -> None:
    """DiT: act(map(x)) -> map to a gate and a shift; one of them joins the stream."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["u"]),
        helper.make_node("Relu", ["u"], ["h"]),
        helper.make_node("MatMul", ["h", "wide"], ["both"]),
        helper.make_node("Split", ["both", "halves"], ["gate", "shift"], axis=-1),
        helper.make_node("Mul", ["gate", "x"], ["gated"]),
        helper.make_node("Add", ["x", "gated"], ["y"]),
        helper.make_node("Add", ["x", "shift"], ["z"]),
    ]
    weights = {"up": weight(WIDTH, UNITS), "wide": weight(UNITS, 2 * WIDTH)}
    weights["halves"] = ints(WIDTH, WIDTH)
    path = save(tmp_path, nodes, {"x": ["B", "T", WIDTH]}, ["y", "z"], weights)
    scene = scene_of(path)
    linears = find_linears(scene.graph, scene.shapes)
    assert find_mlps(scene.graph, scene.shapes, linears, []) == []
