"""Quantised weights move with their scales and zero points; blocks move as blocks."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from symmetry import quantized_models as q
from symmetry.soundness import open_session

from graphrebase.graph import build_graph
from graphrebase.graph.quantized import quantized_constants
from graphrebase.io import read_model, write_model
from graphrebase.rebase.basis import Basis, leave_one_out, random_basis
from graphrebase.symmetry import Symmetry, find_symmetry

#: Forms whose hidden units are interchangeable one by one.
PLAIN = {
    "per tensor": q.per_tensor,
    "per column": q.per_channel(1),
    "per row": q.per_channel(0),
    "dynamic": q.dynamic,
    "QLinearMatMul": q.qlinear_matmul,
    "QGemm": q.qgemm,
    "DynamicQuantizeMatMul": q.dynamic_matmul,
    "MatMulIntegerToFloat": q.integer_to_float,
}
#: Forms with scales per block: (layer, sizes of the groups of 64 hidden units, in blocks of 16).
BLOCKED = {
    "int8 blocks": (q.blocked(np.int8), {4}),
    "int4 blocks": (q.blocked(ml_dtypes.int4), {4}),
    "uint4 blocks": (q.blocked(ml_dtypes.uint4), {4}),
    "4 bits": (q.nbits(4, points=False), {4}),
    "4 bits, flat scales": (q.nbits(4, points=False, flat=True), {4}),
    "4 bits, zero points": (q.nbits(4, points=True), {2}),
    "4 bits, flat zero points": (q.nbits(4, points=True, flat=True), {2}),
    "8 bits, zero points": (q.nbits(8, points=True), {4}),
    "2 bits": (q.nbits(2, points=False), {4}),
}
LAYERS = {**PLAIN, **{name: layer for name, (layer, _) in BLOCKED.items()}}


def symmetry_of(path: Path) -> Symmetry:
    return find_symmetry(build_graph(read_model(path)))


def run(path: Path, rows: int) -> np.ndarray:
    x = np.random.default_rng(rows).standard_normal((rows, q.WIDTH)).astype(np.float32)
    return open_session(onnx.load(path).SerializeToString()).run(None, {"x": x})[0]


def change(model: Path, basis: Basis, left_out: list[str]) -> float:
    """Return the largest relative change of the outputs at two sizes, some tensors left as is."""
    other = model.with_name("other.onnx")
    moved = leave_one_out(basis, left_out)
    write_model(read_model(model), other, moved, {}, force=True)
    pairs = [(run(model, rows), run(other, rows)) for rows in (4, 7)]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


@pytest.mark.parametrize("name", LAYERS)
def test_permuted_integers_compute_the_same(tmp_path: Path, name: str) -> None:
    path = q.save_layers(tmp_path / "model.onnx", LAYERS[name])
    symmetry = symmetry_of(path)
    assert not symmetry.unknown_operators and symmetry.groups
    basis = random_basis(symmetry, seed=1)
    assert change(path, basis, []) < 1e-5
    stored = onnx.load(path).graph.initializer
    uniform = {t.name for t in stored if np.unique(numpy_helper.to_array(t)).size == 1}
    for tensor in set(basis.replacements()) - uniform:
        assert change(path, basis, [tensor]) > 1e-3, tensor


@pytest.mark.parametrize("name", PLAIN)
def test_hidden_units_are_one_group(tmp_path: Path, name: str) -> None:
    symmetry = symmetry_of(q.save_layers(tmp_path / "model.onnx", PLAIN[name]))
    assert [(g.size, g.count) for g in symmetry.groups] == [(q.HIDDEN, 1)]


@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_move_as_a_whole(tmp_path: Path, name: str) -> None:
    layer, expected = BLOCKED[name]
    symmetry = symmetry_of(q.save_layers(tmp_path / "model.onnx", layer))
    assert {g.size for g in symmetry.groups} == expected
    assert any("keep their place" in f.reason for f in symmetry.frozen)


def test_shared_bytes_are_the_reason(tmp_path: Path) -> None:
    path = q.save_layers(tmp_path / "model.onnx", q.nbits(2, points=True))
    symmetry = symmetry_of(path)
    assert symmetry.groups == ()
    reasons = {f.reason for f in symmetry.frozen if f.tensor == "w1"}
    assert "the zero points of 4 blocks share a byte" in reasons


def test_group_indices_freeze_the_input_channels(tmp_path: Path) -> None:
    path = q.save_layers(tmp_path / "model.onnx", q.nbits(4, points=False))
    model = onnx.load(path)
    index = np.random.default_rng(0).integers(0, 3, q.HIDDEN).astype(np.int32)
    model.graph.initializer.append(numpy_helper.from_array(index, "g"))
    next(n for n in model.graph.node if n.output[0] == "m2").input[4] = "g"
    onnx.save(model, path)
    symmetry = symmetry_of(path)
    assert symmetry.groups == ()
    assert "every input channel has a group index" in {f.reason for f in symmetry.frozen}


def test_blocks_that_do_not_divide_freeze_the_axis(tmp_path: Path) -> None:
    m = q.Maker()
    first = q.per_channel(1)(m, "x", "1", q.WIDTH, q.HIDDEN)
    weight = m.integers("w2", (q.HIDDEN, q.OUT), np.int8)
    inputs = [weight, m.scales("s2", (3, q.OUT)), m.integers("z2", (3, q.OUT), np.int8)]
    plain = m.node("DequantizeLinear", inputs, ["p2"], axis=0, block_size=24)
    m.node("MatMul", [first, plain], ["y"])
    symmetry = symmetry_of(m.save(tmp_path / "model.onnx", 21))
    assert symmetry.groups == ()
    assert any("do not divide" in f.reason for f in symmetry.frozen)


def save_table(path: Path, *, also_shape: bool) -> Path:
    """Save an integer table that is dequantised, and perhaps read as a shape too."""
    m = q.Maker()
    m.constant("t", np.arange(q.HIDDEN, dtype=np.int64).astype(np.int32) + 1)
    m.node("DequantizeLinear", ["t", m.scalar("s", 0.5)], ["bias"])
    hidden = q.per_channel(1)(m, "x", "1", q.WIDTH, q.HIDDEN)
    m.node("Add", [hidden, "bias"], ["h"])
    last = q.per_channel(1)(m, "h", "2", q.HIDDEN, q.OUT)
    if also_shape:
        m.node("Cast", ["t"], ["wide"], to=TensorProto.INT64)
        m.node("Gather", ["wide", m.constant("i", np.array([0]))], ["one"])
        last = m.node("Expand", [last, "one"], ["e"])
    m.node("Identity", [last], ["y"])
    return m.save(path, 21)


def test_integers_are_free_only_where_all_uses_are_quantised(tmp_path: Path) -> None:
    free = build_graph(read_model(save_table(tmp_path / "a.onnx", also_shape=False)))
    assert "t" in quantized_constants(free)
    assert [g.size for g in find_symmetry(free).groups] == [q.HIDDEN]
    control = build_graph(read_model(save_table(tmp_path / "b.onnx", also_shape=True)))
    assert "t" not in quantized_constants(control)
    assert find_symmetry(control).groups == ()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_odd_numbers_of_packed_integers_are_written_whole(tmp_path: Path, count: int) -> None:
    values = np.random.default_rng(1).integers(-8, 8, (count, 3)).astype(ml_dtypes.int4)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["p"]),
        helper.make_node("MatMul", ["x", "p"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k])
        for n, k in (("x", count), ("y", 3))
    ]
    weights = [
        numpy_helper.from_array(values, "w"),
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
    ]
    graph = helper.make_graph(nodes, "packed", ends[:1], ends[1:], weights)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    turned = values[::-1]
    write_model(read_model(path), tmp_path / "turned.onnx", {"w": lambda: turned}, {})
    stored = read_model(tmp_path / "turned.onnx").tensors["w"].load()
    np.testing.assert_array_equal(stored.astype(int), turned.astype(int))
