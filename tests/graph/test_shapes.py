"""Shape arithmetic is folded; a size is static only where both probes agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from graph_models import graph_of, ints, save, weight
from onnx import helper

from graphrebase.graph import infer_shapes
from graphrebase.graph.probe_sizes import PROBES, input_dims


def test_computed_reshape_target(tmp_path: Path) -> None:
    """[B, S, 32] to [B, S, 4, 8] with B and S read from the input's shape, as exporters do."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["b"]),
        helper.make_node("Gather", ["shape", "one"], ["s"]),
        helper.make_node("Unsqueeze", ["b", "zero_axis"], ["b1"]),
        helper.make_node("Unsqueeze", ["s", "zero_axis"], ["s1"]),
        helper.make_node("Concat", ["b1", "s1", "heads"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {
        "zero": ints(0).reshape(()),
        "one": ints(1).reshape(()),
        "zero_axis": ints(0),
        "heads": ints(-1, 8),
    }
    path = save(tmp_path, nodes, {"x": ["B", "S", 32]}, ["y"], weights)
    table = infer_shapes(graph_of(path))
    assert table.shape("y") == (PROBES[0], PROBES[1], (4, 4), (8, 8))
    assert table.static_value("target") is None
    assert table.static_value("heads") is not None


def test_equal_symbols_have_equal_sizes_and_sums_are_evaluated(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    inputs = {"x": ["B", "P"], "m": ["B", "P + S"], "z": ["S", 3]}
    dims = input_dims(graph_of(save(tmp_path, nodes, inputs, ["y"])))
    assert dims["x"][0] == dims["m"][0]
    assert dims["m"][1] == tuple(p + s for p, s in zip(dims["x"][1], dims["z"][0], strict=True))
    assert dims["z"][1] == (3, 3)


@pytest.mark.parametrize(("bound", "static"), [("five", True), ("length", False)])
def test_a_dynamic_slice_is_not_static(bound: str, static: bool, tmp_path: Path) -> None:
    """position_ids[:, :S] of a table long enough looks static under one probe only."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "one", "two"], ["length"]),
        helper.make_node("Slice", ["table", "zero", bound, "axis"], ["y"]),
    ]
    weights = {
        "table": weight(1, 40),
        "five": ints(5),
        "zero": ints(0),
        "one": ints(1),
        "two": ints(2),
        "axis": ints(1),
    }
    table = infer_shapes(graph_of(save(tmp_path, nodes, {"x": ["B", "S"]}, ["y"], weights)))
    shape = table.shape("y")
    assert shape is not None
    assert (shape[1][0] == shape[1][1]) is static


def test_unknown_operator_leaves_its_output_unknown(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Odd", ["x"], ["h"], domain="custom"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    table = infer_shapes(graph_of(save(tmp_path, nodes, {"x": [2, 3]}, ["y"])))
    assert table.shape("x") == ((2, 2), (3, 3))
    assert table.shape("h") is None and table.shape("y") is None


def test_dynamic_lengths_survive_long_strides(tmp_path: Path) -> None:
    """Sound is read with a stride of 320 samples: a few samples would leave no position."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], strides=[40]),
        helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[3], strides=[2]),
        helper.make_node("Conv", ["p", "w2"], ["y"], strides=[4]),
    ]
    weights = {"w1": weight(4, 1, 50), "w2": weight(6, 4, 8)}
    path = save(tmp_path, nodes, {"x": ["B", 1, "samples"]}, ["y"], weights)
    batch, channels, length = infer_shapes(graph_of(path)).shape("y") or ()
    assert (batch, channels) == (PROBES[0], (6, 6))
    assert 0 < length[0] < length[1]


@pytest.mark.parametrize(
    ("op_type", "others", "opset", "known"),
    [
        ("GroupNormalization", ["gain", "bias"], 21, True),
        ("MeanVarianceNormalization", [], 17, True),
        ("GreaterOrEqual", ["gain"], 14, True),
        ("NoSuchOperator", ["gain"], 21, False),
    ],
)
def test_operators_whose_schema_infers_no_shape(
    op_type: str, others: list[str], opset: int, known: bool, tmp_path: Path
) -> None:
    groups = {"num_groups": 2} if op_type == "GroupNormalization" else {}
    nodes = [
        helper.make_node(op_type, ["x", *others], ["h"], **groups),
        helper.make_node("Not" if op_type == "GreaterOrEqual" else "Relu", ["h"], ["y"]),
    ]
    weights = {"gain": weight(4), "bias": weight(4)}
    path = save(tmp_path, nodes, {"x": ["B", 4, 4]}, ["y"], weights, opset=opset)
    table = infer_shapes(graph_of(path))
    assert (table.shape("y") == table.shape("x")) is known


@pytest.mark.parametrize(
    ("op_type", "attributes", "size"),
    [
        ("Conv", {"strides": [2, 2]}, (4, 3, 3)),
        ("Conv", {"strides": [2, 2], "auto_pad": "VALID", "pads": [1, 1, 1, 1]}, (4, 3, 3)),
        ("Conv", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (4, 4, 4)),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (3, 7, 7)),
        ("GlobalAveragePool", {}, (3, 1, 1)),
    ],
)
def test_images_with_channels_in_blocks_have_the_sizes_of_plain_ones(
    op_type: str, attributes: dict[str, Any], size: tuple[int, ...], tmp_path: Path
) -> None:
    inputs = ["x", "w"] if op_type == "Conv" else ["x"]
    nodes = [
        helper.make_node(op_type, inputs, ["h"], domain="com.microsoft.nchwc", **attributes),
        helper.make_node(
            "ReorderOutput", ["h"], ["y"], domain="com.microsoft.nchwc", channels=size[0]
        ),
    ]
    path = save(tmp_path, nodes, {"x": ["B", 3, 7, 7]}, ["y"], {"w": weight(4, 3, 3, 3)})
    shape = infer_shapes(graph_of(path)).shape("y")
    assert shape is not None and shape[1:] == tuple((n, n) for n in size)


@pytest.mark.parametrize("length", [6, 4])
def test_a_length_that_an_exporter_took_for_a_constant_is_static(
    tmp_path: Path, length: int
) -> None:
    """torch.nn.MultiheadAttention, sequence first: Reshape to (length, B * h, d)."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Mul", ["batch", "heads"], ["rows"]),
        helper.make_node("Concat", ["length", "rows", "inner"], ["target"], axis=0),
        helper.make_node("Reshape", ["turned", "target"], ["y"]),
    ]
    weights = {"heads": ints(4), "inner": ints(9), "length": ints(length)}
    path = save(tmp_path, nodes, {"x": ["B", "T", 36]}, ["y"], weights)
    table = infer_shapes(graph_of(path))
    assert table.shape("x") == (PROBES[0], (length, length), (36, 36))
    assert table.shape("y") == ((length, length), (8, 12), (9, 9))


def test_control_what_fits_stays_dynamic(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"])]
    path = save(tmp_path, nodes, {"x": ["B", "T", 36]}, ["y"], {"target": ints(0, -1, 4, 9)})
    assert infer_shapes(graph_of(path)).shape("x") == (PROBES[0], PROBES[1], (36, 36))
