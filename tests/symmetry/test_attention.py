"""Attention of opset 23 with a cache, and tokens written into a cache of fixed length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import ints, save, weight
from onnx import helper
from symmetry.soundness import relative_change, run, with_weights

from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.rebase.basis import leave_one_out, random_basis
from graphrebase.symmetry import Symmetry, find_symmetry

H, HEADS, KV, D, PAST = 12, 4, 2, 6, 3
MASKED = {"is_causal": 1}


def heads(x: str, name: str, count: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [x, f"w{name}"], [f"{name}0"]),
        helper.make_node("Reshape", [f"{name}0", f"shape{count}"], [f"{name}1"]),
        helper.make_node("Transpose", [f"{name}1"], [name], perm=[0, 2, 1, 3]),
    ]


def merged(x: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Transpose", [x], ["z0"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["z0", "flat"], ["z1"]),
        helper.make_node("MatMul", ["z1", "wo"], ["y"]),
    ]


def weights(count: int, kv: int) -> dict[str, np.ndarray]:
    sizes = {"q": count, "k": kv, "v": kv}
    found = {f"w{n}": weight(H, c * D, seed=i) / 3 for i, (n, c) in enumerate(sizes.items())}
    shapes = {f"shape{c}": ints(0, 0, c, D) for c in (count, kv)}
    return {**found, **shapes, "flat": ints(0, 0, -1), "wo": weight(count * D, 5, seed=9)}


def cached(folder: Path, kv: int, attributes: dict[str, int]) -> Path:
    """Learned keys and values before the tokens, as in prefix tuning."""
    nodes = [*heads("x", "q", HEADS), *heads("x", "k", kv), *heads("x", "v", kv)]
    inputs = ["q", "k", "v", "", "pk", "pv"]
    nodes.append(helper.make_node("Attention", inputs, ["z", "k2", "v2"], **attributes))
    stored = weights(HEADS, kv) | {
        "pk": weight(1, kv, PAST, D, seed=4), "pv": weight(1, kv, PAST, D, seed=5),
    }  # fmt: skip
    return save(folder, [*nodes, *merged("z")], {"x": [1, "n", H]}, ["y"], stored, opset=23)


def scattered(folder: Path, axis: int) -> Path:
    """Tokens written over a learned cache."""
    nodes = [
        *heads("x", "v", KV),
        helper.make_node("TensorScatter", ["cache", "v", "at"], ["z"], axis=axis),
    ]
    stored = weights(KV, KV) | {"cache": weight(1, KV, 12, D, seed=4), "at": ints(1)}
    return save(folder, [*nodes, *merged("z")], {"x": [1, "n", H]}, ["y"], stored, opset=24)


def check(path: Path) -> Symmetry:
    """Permute at two sizes, then leave every member out."""
    symmetry = find_symmetry(build_graph(read_model(path)))
    model, basis = onnx.load(path), random_basis(symmetry, seed=1)

    def change(left_out: list[str]) -> float:
        moved = with_weights(model, {n: f() for n, f in leave_one_out(basis, left_out).items()})
        worst = 0.0
        for length in (4, 7):
            x = {"x": np.random.default_rng(length).standard_normal((1, length, H)).astype("f4")}
            worst = max(worst, relative_change(run(model, x), run(moved, x)))
        return worst

    assert change([]) < 1e-5
    for tensor in basis.replacements():
        assert change([tensor]) > 1e-3, tensor
    return symmetry


@pytest.mark.parametrize("kv", [KV, HEADS])
@pytest.mark.parametrize("attributes", [{}, MASKED])
def test_a_cache_moves_with_keys_and_values(
    kv: int, attributes: dict[str, int], tmp_path: Path
) -> None:
    symmetry = check(cached(tmp_path, kv, attributes))
    members = [{(m.tensor, m.axis) for m in group.members} for group in symmetry.groups]
    assert any({("pk", 1), ("pv", 1), ("wk", 1), ("wo", 0)} <= found for found in members)
    assert any({("pk", 3), ("wk", 1), ("wq", 1)} <= found for found in members)
    assert any({("pv", 3), ("wv", 1), ("wo", 0)} <= found for found in members)
    reasons = {(f.tensor, f.axis): f.reason for f in symmetry.frozen}
    assert reasons["pk", 2] == reasons["pv", 2] == "joined to the tokens before"


def test_written_tokens_move_with_the_cache(tmp_path: Path) -> None:
    symmetry = check(scattered(tmp_path, -2))
    assert {(m.tensor, m.axis) for g in symmetry.groups for m in g.members} == {
        ("cache", 1), ("cache", 3), ("wv", 1), ("wo", 0)
    }  # fmt: skip
    assert {(f.tensor, f.axis) for f in symmetry.frozen} >= {("cache", 2)}
