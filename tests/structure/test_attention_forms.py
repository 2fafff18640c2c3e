"""Attention that is not four plain matrices on a stream is named by its core all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import ints, save, weight
from onnx import NodeProto, helper

from graphrebase.io import read_model
from graphrebase.structure import Structure, find_structure, summary

node = helper.make_node
WIDTH, HEADS, INNER = 8, 2, 4
Parts = tuple[list[NodeProto], dict[str, np.ndarray]]


def heads(name: str, source: str, inner: int = INNER, width: int = WIDTH, seed: int = 0) -> Parts:
    """Return a projection to (B, 2, S, inner)."""
    nodes = [
        node("MatMul", [source, f"w{name}"], [f"{name}_flat"]),
        node("Reshape", [f"{name}_flat", f"{name}_shape"], [f"{name}_grid"]),
        node("Transpose", [f"{name}_grid"], [name], perm=[0, 2, 1, 3]),
    ]
    shape = ints(0, 0, HEADS, inner)
    return nodes, {f"w{name}": weight(width, HEADS * inner, seed=seed), f"{name}_shape": shape}


def core(key: str = "k", *, scores: str = "scores") -> list[NodeProto]:
    """Return attention with q, a key and v, up to (B, S, 8)."""
    return [
        node("Transpose", [key], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", [scores], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "flat"], ["joined"]),
    ]


def found(
    folder: Path,
    parts: list[Parts],
    nodes: list[NodeProto],
    more: Mapping[str, np.ndarray],
    size: Sequence[str | int] = ("B", "S"),
) -> Structure:
    weights: dict[str, np.ndarray] = {"flat": ints(0, 0, WIDTH), **more}
    before: list[NodeProto] = []
    for made, constants in parts:
        before += made
        weights |= constants
    path = save(folder, [*before, *nodes], {"x": [*size, WIDTH]}, ["y"], weights)
    return find_structure(read_model(path), free=())


def ends(read: str = "joined", skip: str = "x") -> list[NodeProto]:
    return [node("MatMul", [read, "wo"], ["branch"]), node("Add", [skip, "branch"], ["y"])]


def plain() -> list[Parts]:
    return [heads(name, "x", seed=i) for i, name in enumerate("qkv")]


def attention(structure: Structure) -> dict[str, Any]:
    (block,) = [b for b in summary(structure)["blocks"] if b["kind"] == "attention"]
    assert block["residual"]
    return {k: block[k] for k in ("heads", "kv_heads", "head_dim", "value_dim", "hidden")}


def nominal(head_dim: int = INNER, hidden: int = WIDTH) -> dict[str, int]:
    sizes = {"heads": HEADS, "kv_heads": HEADS, "head_dim": head_dim}
    return {**sizes, "value_dim": INNER, "hidden": hidden}


def test_keys_with_a_part_that_all_heads_share(tmp_path: Path) -> None:
    """As DeepSeek-V2: a latent of 3 beside 2 more, keys of 4 from the one, of 2 from the other."""
    parts = [heads("q", "x", 6), heads("own", "latent", width=3), heads("v", "latent", width=3)]
    down = [
        node("MatMul", ["x", "wdown"], ["down"]),
        node("Split", ["down", "sizes"], ["latent", "turning"], axis=-1),
    ]
    shared = [
        node("Unsqueeze", ["turning", "one"], ["lifted"]),
        node("Expand", ["lifted", "repeats"], ["repeated"]),
        node("Concat", ["own", "repeated"], ["k"], axis=-1),
    ]
    more = {"wdown": weight(WIDTH, 5, seed=5), "sizes": ints(3, 2), "one": ints(1)}
    more |= {"repeats": ints(1, HEADS, 1, 1), "wo": weight(8, 8, seed=6)}
    structure = found(tmp_path, [(down, {}), *parts], [*shared, *core(), *ends()], more)
    assert attention(structure) == nominal(head_dim=6)
    roles = structure.roles
    assert roles["block.0.attention.k.weight"].view.shape == (HEADS, INNER, 3)
    # The latent is a space: what makes it and what reads it agree.
    made = roles["inner.linear.0.0.weight"]
    assert made.axes[0] is not None and made.axes[0] == roles["block.0.attention.v.weight"].axes[2]
    assert np.array_equal(structure.read(made.name), weight(WIDTH, 5, seed=5).T[:3])
    assert roles["inner.linear.0.1.weight"].view.shape == (2, WIDTH)


def test_keys_whose_parts_are_written_into_place(tmp_path: Path) -> None:
    """As MiniCPM3: ``key[..., :4] = own; key[..., 4:] = shared``."""
    parts = [heads("q", "x", 6), heads("own", "x", 4, seed=1), heads("v", "x", seed=2)]
    place = np.stack(np.meshgrid(*map(np.arange, (2, HEADS, 3, 6)), indexing="ij"), -1)
    shared = [
        node("MatMul", ["x", "wshared"], ["turning"]),
        node("Unsqueeze", ["turning", "one"], ["lifted"]),
        node("Expand", ["lifted", "repeats"], ["repeated"]),
        node("ScatterND", ["empty", "first", "own"], ["half"]),
        node("ScatterND", ["half", "second", "repeated"], ["k"]),
    ]
    more = {"first": place[..., :4, :], "second": place[..., 4:, :], "one": ints(1)}
    more |= {"empty": np.zeros((2, HEADS, 3, 6), np.float32), "repeats": ints(1, HEADS, 1, 1)}
    more |= {"wshared": weight(WIDTH, 2, seed=5), "wo": weight(8, 8, seed=6)}
    structure = found(tmp_path, parts, [*shared, *core(), *ends()], more, (2, 3))
    assert attention(structure) == nominal(head_dim=6)
    assert structure.roles["block.0.attention.k.weight"].view.shape == (HEADS, INNER, WIDTH)


def test_a_norm_before_the_output_projection(tmp_path: Path) -> None:
    """As BitNet."""
    norm = node("LayerNormalization", ["joined", "gain"], ["normed"])
    more = {"gain": weight(8, seed=7), "wo": weight(8, 8, seed=6)}
    structure = found(tmp_path, plain(), [*core(), norm, *ends("normed")], more)
    assert attention(structure) == nominal()


def test_other_channels_beside_the_heads(tmp_path: Path) -> None:
    """As ConvBERT: the output projection reads them too, and all its columns have a role."""
    beside = [
        node("MatMul", ["x", "wother"], ["other"]),
        node("Concat", ["other", "joined"], ["both"], axis=-1),
    ]
    more = {"wother": weight(WIDTH, 3, seed=7), "wo": weight(11, 8, seed=6)}
    structure = found(tmp_path, plain(), [*beside, *core(), *ends("both")], more)
    assert attention(structure) == nominal()
    read = structure.read("block.0.attention.o.weight")
    assert np.array_equal(read.reshape(8, 8), weight(11, 8, seed=6)[3:].T)
    rest = structure.read("block.0.attention.o.rest.weight")
    assert np.array_equal(rest, weight(11, 8, seed=6)[:3].T)


def test_scores_by_position_are_not_the_core(tmp_path: Path) -> None:
    """As XLNet: q k^T + q r^T, where r depends on nothing that is given."""
    by_position = [
        node("MatMul", ["q", "r"], ["positions"]),
        node("MatMul", ["q", "kt"], ["content"]),
        node("Add", ["positions", "content"], ["both"]),
    ]
    rest = core(scores="both")
    rest[1:2] = by_position
    more = {"r": weight(1, HEADS, INNER, 1, seed=7), "wo": weight(8, 8, seed=6)}
    assert attention(found(tmp_path, plain(), [*rest, *ends()], more)) == nominal()


def test_a_skip_that_is_scaled_is_one(tmp_path: Path) -> None:
    scaled = node("Mul", ["x", "scale"], ["passed"])
    more = {"scale": np.array(0.5, np.float32), "wo": weight(8, 8, seed=6)}
    nodes = [*core(), scaled, *ends(skip="passed")]
    assert attention(found(tmp_path, plain(), nodes, more)) == nominal()


def test_control_heads_that_are_added_to_the_stream_have_no_output_projection(
    tmp_path: Path,
) -> None:
    nodes = [
        *core(),
        node("Add", ["x", "joined"], ["stream"]),
        node("MatMul", ["stream", "wo"], ["y"]),
    ]
    structure = found(tmp_path, plain(), nodes, {"wo": weight(8, 8, seed=6)})
    assert not structure.attention
    assert any("output could not be followed" in m.reason for m in structure.near_misses)


def test_products_written_transposed(tmp_path: Path) -> None:
    """Keys by queries, Softmax over the last axis but one, then v^T times the weights."""
    nodes = [
        node("Transpose", ["q"], ["qt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["k", "qt"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-2),
        node("Transpose", ["v"], ["vt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["vt", "weights"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 3, 1, 2]),
        node("Reshape", ["turned", "flat"], ["joined"]),
    ]
    structure = found(tmp_path, plain(), [*nodes, *ends()], {"wo": weight(8, 8, seed=6)})
    assert attention(structure) == nominal()
    first = structure.attention[0]
    maps = {part: getattr(first, part).linear.weight.tensor for part in ("query", "key", "value")}
    assert maps == {"query": "wq", "key": "wk", "value": "wv"}
    assert not [f for f in summary(structure)["frozen"] if f["axis"].startswith("block.")]


def channels_first(folder: Path, groups: int) -> dict[str, Any]:
    """Return what is told of an MLP of 1x1 convolutions on a stream (B, 8, S)."""
    nodes = [
        node("Conv", ["x", "w1"], ["up"], group=groups),
        node("Relu", ["up"], ["units"]),
        node("Conv", ["units", "w2"], ["branch"], group=groups),
        node("Add", ["x", "branch"], ["stream"]),
        node("Conv", ["stream", "w3"], ["y"]),
    ]
    weights = {"w1": weight(12, 8 // groups, 1), "w2": weight(8, 12 // groups, 1, seed=1)}
    weights["w3"] = weight(2, 8, 1, seed=2)
    path = save(folder, nodes, {"x": ["B", WIDTH, "S"]}, ["y"], weights)
    return summary(find_structure(read_model(path), free=("latent",)))


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_before_positions(tmp_path: Path, groups: int) -> None:
    """As SqueezeBERT: what is told of a stream is told of its channels, not of its last axis."""
    told = channels_first(tmp_path, groups)
    (residual,) = [f for f in told["frozen"] if f["axis"] == "residual"]
    assert (residual["size"], residual["reason"]) == (WIDTH, "input 'x'")
    assert {(g["kind"], g["size"]) for g in told["groups"]} == {("mlp", 12 // groups)}
    assert not [f for f in told["frozen"] if f["axis"] == "block.0.mlp"]


def windowed(folder: Path, *, pool: bool) -> Structure:
    """Save attention in windows as Hiera has it: q, k, v (B, heads, windows, tokens, d)."""
    nodes = [
        node("MatMul", ["x", "wqkv"], ["packed"]),
        node("Reshape", ["packed", "grid"], ["cut"]),
        node("Transpose", ["cut"], ["all"], perm=[3, 0, 4, 2, 1, 5]),
        *(node("Gather", ["all", f"at{i}"], [name], axis=0) for i, name in enumerate("qkv")),
        node("ReduceMax", ["q", "tokens"], ["pooled"], keepdims=1),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 2, 4, 3]),
        node("MatMul", ["pooled" if pool else "q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 3, 2, 1, 4]),
        node("Reshape", ["back", "flat"], ["joined"]),
        node("MatMul", ["joined", "wo"], ["y"]),
    ]
    nodes = nodes if pool else [n for n in nodes if "pooled" not in n.output]
    weights = {"wqkv": weight(WIDTH, 3 * WIDTH), "wo": weight(WIDTH, WIDTH, seed=1)}
    weights |= {"grid": ints(0, 4, 3, 3, HEADS, INNER), "flat": ints(0, -1, WIDTH)}
    weights |= {f"at{i}": np.array(i) for i in range(3)} | ({"tokens": ints(3)} if pool else {})
    path = save(folder, nodes, {"x": ["B", 12, WIDTH]}, ["y"], weights, opset=18)
    return find_structure(read_model(path), free=("latent",))


@pytest.mark.parametrize("pool", [False, True])
def test_heads_before_windows(tmp_path: Path, pool: bool) -> None:
    """Three windows of four tokens: each head reads its own channels, queries pooled or not."""
    structure = windowed(tmp_path, pool=pool)
    (layer,) = structure.attention
    assert layer.query.index.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert layer.value.index.tolist() == [[16, 17, 18, 19], [20, 21, 22, 23]]
    assert layer.output.index.tolist() == layer.query.index.tolist()
    assert layer.kv_of.tolist() == [0, 1]
    kinds = {group["kind"] for group in summary(structure)["groups"]}
    assert {"head", "head_qk", "head_vo"} <= kinds


def test_control_queries_that_mix_channels_have_no_linear_map(tmp_path: Path) -> None:
    """A maximum over the channels of a head is no pooling of positions."""
    mixed = node("ReduceMax", ["q"], ["top"], axes=[-1], keepdims=1)
    again = node("Expand", ["top", "size"], ["wide"])
    nodes = [n for n in core() if "scores" not in n.output]
    nodes.insert(1, node("MatMul", ["wide", "kt"], ["scores"]))
    more = {"size": ints(1, 1, 1, INNER), "wo": weight(8, 8, seed=6)}
    structure = found(tmp_path, plain(), [mixed, again, *nodes, *ends()], more)
    assert not structure.attention
    assert "query" in structure.near_misses[0].reason
