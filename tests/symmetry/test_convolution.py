"""Convolutions, pooling and resampling: channels move, positions keep their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import ints, save, weight
from laws import assert_permutes, members, symmetry_of
from onnx import helper

INPUT = {"x": ["B", 3, 8, 8]}


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": weight(2, 3, 8, 8, seed=seed)} for seed in (1, 3)]


def between(folder: Path, nodes: list[onnx.NodeProto], **weights: np.ndarray) -> Path:
    """Save x -> Conv to 6 channels 'h' -> the nodes, to 6 channels 'k' -> Conv -> y."""
    first = helper.make_node("Conv", ["x", "w1"], ["h"], pads=[1, 1, 1, 1])
    last = helper.make_node("Conv", ["k", "w2"], ["y"])
    weights |= {"w1": weight(6, 3, 3, 3), "w2": weight(2, 6, 1, 1, seed=1)}
    return save(folder, [first, *nodes, last], INPUT, ["y"], weights, opset=18)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MaxPool", ["h"], ["k"], kernel_shape=[2, 2]),
        helper.make_node("AveragePool", ["h"], ["k"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["h"], ["k"]),
        helper.make_node("Resize", ["h", "", "scales"], ["k"], mode="linear"),
        helper.make_node("Resize", ["h", "", "", "sizes"], ["k"], mode="cubic"),
        helper.make_node("Pad", ["h", "pads"], ["k"]),
        helper.make_node("LpNormalization", ["h"], ["k"], axis=1),
    ],
    ids=lambda node: f"{node.op_type}-{len(node.input)}",
)
def test_channels_pass(tmp_path: Path, node: onnx.NodeProto) -> None:
    known = {
        "sizes": ints(2, 6, 9, 9),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": ints(0, 0, 1, 1, 0, 0, 0, 1),
    }
    used = {name: known[name] for name in node.input if name in known}
    path = between(tmp_path, [node], **used)
    symmetry = assert_permutes(path, feeds(), "w2")
    assert members(symmetry) == [{("w1", 0), ("w2", 1)}]


def test_channels_that_are_resized_keep_their_order(tmp_path: Path) -> None:
    scales = np.array([1, 1.05, 2, 2], np.float32)  # 6 channels again, but interpolated ones
    path = between(
        tmp_path, [helper.make_node("Resize", ["h", "", "scales"], ["k"])], scales=scales
    )
    assert members(symmetry_of(path)) == []


def test_channels_that_are_shifted_by_padding_keep_their_order(tmp_path: Path) -> None:
    pads = ints(0, 1, 0, 0, 0, -1, 0, 0)
    path = between(tmp_path, [helper.make_node("Pad", ["h", "pads"], ["k"])], pads=pads)
    assert members(symmetry_of(path)) == []


def test_depthwise_channels_move_with_their_kernels(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["h", "dw", "b"], ["k"], group=6, pads=[1, 1, 1, 1])
    path = between(tmp_path, [node], dw=weight(6, 1, 3, 3, seed=2), b=weight(6, seed=3))
    symmetry = assert_permutes(path, feeds(), "dw")
    assert members(symmetry) == [{("w1", 0), ("dw", 0), ("b", 0), ("w2", 1)}]


def test_groups_move_whole_and_inside(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["h", "wg"], ["k"], group=3)
    path = between(tmp_path, [node], wg=weight(6, 2, 1, 1, seed=2))
    symmetry = assert_permutes(path, feeds(), "wg")
    assert sorted((g.size, g.count) for g in symmetry.groups) == [(2, 3), (2, 3), (3, 1)]


def test_pixel_shuffle_keeps_the_block_index_in_place(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "DepthToSpace",
            [
                "h",
            ],
            ["d"],
            blocksize=2,
        ),
        helper.make_node("Conv", ["d", "w2"], ["y"]),
    ]
    first = helper.make_node("Conv", ["x", "w1"], ["h"])
    weights = {"w1": weight(20, 3, 3, 3), "w2": weight(2, 5, 1, 1, seed=1)}
    path = save(tmp_path, [first, *nodes], INPUT, ["y"], weights)
    symmetry = assert_permutes(path, feeds(), "w2")
    assert [(g.size, g.count) for g in symmetry.groups] == [(5, 1)]


def test_a_transposed_convolution_contracts_its_first_axis(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["h", "up"], ["k"], strides=[2, 2])
    path = between(tmp_path, [node], up=weight(6, 6, 2, 2, seed=2))
    symmetry = assert_permutes(path, feeds(), "up")
    assert members(symmetry) == [{("w1", 0), ("up", 0)}, {("up", 1), ("w2", 1)}]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(tmp_path: Path, groups: int, opset: int) -> None:
    size = groups if opset == 18 else 6
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"]),
        helper.make_node("GroupNormalization", ["h", "s", "b"], ["n"], num_groups=groups),
        helper.make_node("Conv", ["n", "w2"], ["y"]),
    ]
    weights = {"w1": weight(6, 3, 3, 3), "w2": weight(2, 6, 1, 1, seed=1)}
    weights |= {"s": weight(size, seed=2), "b": weight(size, seed=3)}
    path = save(tmp_path, nodes, INPUT, ["y"], weights, opset=opset)
    symmetry = assert_permutes(path, feeds(), "w2")
    sizes = sorted((g.size, g.count) for g in symmetry.groups)
    assert sizes == {1: [(6, 1)], 2: [(2, 1), (3, 2)], 6: [(6, 1)]}[groups]


@pytest.mark.parametrize("op_type", ["InstanceNormalization", "BatchNormalization"])
def test_per_channel_norms(tmp_path: Path, op_type: str) -> None:
    count = 2 if op_type == "InstanceNormalization" else 4
    names = [f"n{i}" for i in range(count)]
    parameters = {name: np.abs(weight(6, seed=i + 5)) for i, name in enumerate(names)}
    path = between(tmp_path, [helper.make_node(op_type, ["h", *names], ["k"])], **parameters)
    symmetry = assert_permutes(path, feeds(), "n0")
    assert members(symmetry) == [{("w1", 0), ("w2", 1), *((name, 0) for name in names)}]


def pooled(folder: Path, window: list[int]) -> Path:
    """Save x (B, 8, 3) -> 6 units, pooled in windows of (tokens, units), -> y."""
    node = helper.make_node
    ends = [0, 0, window[0] - 1, window[1] - 1]
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Unsqueeze", ["h", "one"], ["image"]),
        node("AveragePool", ["image"], ["p"], kernel_shape=window, pads=ends),
        node("Squeeze", ["p", "one"], ["k"]),
        node("MatMul", ["k", "v"], ["y"]),
    ]
    weights = {"w": weight(3, 6), "v": weight(6, 2, seed=1), "one": ints(1)}
    return save(folder, nodes, {"x": ["B", 8, 3]}, ["y"], weights)


def test_units_in_windows_of_one_unit_are_free(tmp_path: Path) -> None:
    """As Funnel pools its tokens."""
    inputs = [{"x": weight(n, 8, 3, seed=n)} for n in (1, 3)]
    symmetry = assert_permutes(pooled(tmp_path, [2, 1]), inputs, "v")
    assert members(symmetry) == [{("w", 1), ("v", 0)}]


def test_control_units_in_wider_windows_keep_their_place(tmp_path: Path) -> None:
    assert members(symmetry_of(pooled(tmp_path, [2, 2]))) == []
