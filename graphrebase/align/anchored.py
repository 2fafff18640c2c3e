"""The `anchored` method: orthogonal alignment from shared anchors, weights only.

Bases of independently trained models differ by a rotation, which permutations cannot express. What
means the same in both (vocabulary rows, pixels, classes) gives a first rotation of the residual
stream; with it heads and units are matched, which gives evidence for the rotation at every
residual point, and so on for a few rounds. Everything works on folded weights, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from graphrebase.align.action import transport
from graphrebase.align.alignment import Alignment, Details
from graphrebase.align.assignment import best_permutation
from graphrebase.align.body import (
    AttentionLayer,
    Body,
    FloatArray,
    Linear,
    MlpLayer,
    Read,
    Tower,
)
from graphrebase.align.circuits import Heads, heads_of, in_basis, match
from graphrebase.align.folding import Folded, fold_body, input_anchors, output_anchors, required
from graphrebase.align.maps import MapArray
from graphrebase.align.procrustes import circuit_map, polar, rotary_map

ROUNDS = 6
DECAY = 0.5
"""Weight of the evidence of a residual point at the next one."""
MEAN_WEIGHT = 1e-3
"""Weight of the direction of ones, which centred evidence leaves open."""

Maps = dict[str, MapArray]


@dataclass(frozen=True, slots=True)
class Pair:
    """Folded weights of both models: what the rounds work on."""

    body: Body
    a: dict[str, Folded]
    b: dict[str, Folded]


def find_anchored(
    body: Body, read_a: Read, read_b: Read, *, rounds: int = ROUNDS
) -> tuple[Maps, Details]:
    """Return the map of every space of a body, and how well the moved A fits B.

    Args:
        body: what A and B have in common.
        read_a: A's roles.
        read_b: B's roles.
        rounds: alternations of matching and rotation.

    Raises:
        MismatchError: a model lacks a role of the body.
    """
    pair = Pair(body, fold_body(body, read_a), fold_body(body, read_b))
    maps: Maps = {}
    for tower in body.towers:
        anchors = find_anchors(tower, pair, read_a, read_b)
        maps.update(align_tower(pair, tower, anchors, rounds=rounds))
    maps.update(match_hidden(pair, maps, read_a, read_b))
    return maps, _measured(pair, maps, rounds)


def match_hidden(pair: Pair, maps: Mapping[str, MapArray], read_a: Read, read_b: Read) -> Maps:
    """Match the units inside heads of several layers, such as a pooler's.

    Args:
        pair: folded heads of both models.
        maps: of the last points.
        read_a: A's roles.
        read_b: B's roles.
    """
    found: Maps = {}
    for name, readers in pair.body.hidden.items():
        total = np.zeros((pair.body.width(name),) * 2)
        for tower in pair.body.towers:
            for head in (h for h in tower.heads if h.axes[0] == name):
                b, a = pair.b[head.stem], pair.a[head.stem]
                total += _rows(b, None, None) @ _rows(a, maps[tower.points[-1]], None).T
        for role in readers:
            b_out, a_out = (_normed(required(read, role), None) for read in (read_b, read_a))
            total += b_out.T @ a_out
        found[name] = best_permutation(total)
    return found


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the two ends of a stream say about its rotation, (D_B, D_A) each."""

    first: FloatArray
    last: FloatArray


def find_anchors(tower: Tower, pair: Pair, read_a: Read, read_b: Read) -> Anchors:
    """Return what the ends of a stream say, from embeddings, and heads folded in `pair`."""
    shape = pair.body.map_shape(tower.points[0])
    return Anchors(
        find_first_anchor(tower, read_a, read_b, shape),
        find_last_anchor(tower, pair, shape),
    )


def find_first_anchor(
    tower: Tower, read_a: Read, read_b: Read, shape: tuple[int, int]
) -> FloatArray:
    """Return what embeddings say about the first rotation, (D_B, D_A)."""
    a, b = (input_anchors(tower.inputs, r, centred=tower.centred) for r in (read_a, read_b))
    return _product(a, b, shape)


def find_last_anchor(tower: Tower, pair: Pair, shape: tuple[int, int]) -> FloatArray:
    """Return what folded heads say about the last rotation, (D_B, D_A)."""
    return _product(output_anchors(tower, pair.a), output_anchors(tower, pair.b), shape)


def _product(a: FloatArray, b: FloatArray, shape: tuple[int, int]) -> FloatArray:
    return b.T @ a if a.size and b.size else np.zeros(shape)


def align_tower(
    pair: Pair,
    tower: Tower,
    anchors: Anchors,
    *,
    rounds: int,
) -> Maps:
    """Return the maps of one residual stream.

    Args:
        pair: folded weights.
        tower: the stream.
        anchors: evidence of its ends.
        rounds: alternations.
    """
    width = pair.body.width(tower.points[0])
    tie = np.full((width, width), MEAN_WEIGHT / width) if tower.centred else 0.0
    start = polar(anchors.first + anchors.last + tie)
    maps: Maps = {point: start for point in tower.points}
    for _ in range(rounds):
        evidence = {point: np.zeros((width, width)) for point in tower.points}
        for layer in tower.layers:
            if isinstance(layer, AttentionLayer):
                maps.update(match_heads(pair, layer, maps))
            else:
                _match_units(pair, layer, maps)
            _gather(pair, layer, maps, evidence)
        for place, point in enumerate(tower.points):
            depth = place / (len(tower.points) - 1) if len(tower.points) > 1 else 0.5
            total = 2 * (1 - depth) * anchors.first + 2 * depth * anchors.last + tie
            for other, near in enumerate(tower.points):
                total = total + DECAY ** abs(other - place) * evidence[near]
            maps[point] = polar(total)
    return maps


def match_heads(pair: Pair, layer: AttentionLayer, maps: Mapping[str, MapArray]) -> Maps:
    """Match the heads of an attention layer by their circuits, and rotate inside them.

    Args:
        pair: the folded weights of the layer, of both models.
        layer: the layer.
        maps: of the residual points before and after it.
    """
    b = heads_of(layer, pair.b)
    a = in_basis(heads_of(layer, pair.a), maps[layer.before], maps[layer.after])
    heads, members = match(b, a, layer.pairs)
    index = np.arange(len(heads)) if layer.fixed else best_permutation(heads)
    found: Maps = {f"{layer.name}.head": index.astype(np.int64)}
    inner = np.stack(
        [linear_sum_assignment(-members[j, i])[1] for j, i in enumerate(index)]
    ).astype(np.int64)
    if f"{layer.name}.head_member" in pair.body.spaces:
        found[f"{layer.name}.head_member"] = inner
    query_key, value_output = [], []
    for j, i in enumerate(index):
        x_b, y_b, v_b, o_b = _one_head(b, j, np.arange(inner.shape[1]))
        x_a, y_a, v_a, o_a = _one_head(a, int(i), inner[j])
        rotated = rotary_map(x_b, y_b, x_a, y_a, layer.pairs) if layer.pairs else None
        query_key.append(circuit_map(x_b, y_b, x_a, y_a) if rotated is None else rotated)
        value_output.append(circuit_map(v_b, o_b, v_a, o_a))
    found[f"{layer.name}.head_qk"] = np.stack(query_key)
    found[f"{layer.name}.head_vo"] = np.stack(value_output)
    return found


def _one_head(
    heads: Heads, head: int, members: np.ndarray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return q, k, v, o of one key-value head as (d, columns), its query heads side by side."""
    q, o = (np.moveaxis(x[head][members], 0, 1) for x in (heads.q, heads.o))
    size = q.shape[0]
    return q.reshape(size, -1), heads.k[head], heads.v[head], o.reshape(o.shape[0], -1)


def _match_units(pair: Pair, layer: MlpLayer, maps: Maps) -> None:
    before, after = maps[layer.before], maps[layer.after]
    down_b, down_a = (f[layer.down.stem].weight.T for f in (pair.b, pair.a))
    down = _normed(down_b, layer.gate) @ _normed(down_a @ after.T, layer.gate).T
    up = _rows(pair.b[layer.up.stem], None, layer.gate) @ (
        _rows(pair.a[layer.up.stem], before, layer.gate).T
    )
    if layer.gate is None:
        maps[layer.space] = best_permutation(up + down)
        return
    gate = _rows(pair.b[layer.gate.stem], None, layer.gate) @ (
        _rows(pair.a[layer.gate.stem], before, layer.gate).T
    )
    index = best_permutation(gate + np.abs(up + down))
    maps[layer.space] = index
    signs = np.sign((up + down)[np.arange(len(index)), index])
    maps[f"{layer.name}.mlp_sign"] = np.where(signs == 0.0, 1.0, signs)


def _rows(folded: Folded, before: FloatArray | None, gate: Linear | None) -> FloatArray:
    """Return [W | b] row by row, the residual side moved by a rotation."""
    weight = folded.weight if before is None else folded.weight @ before.T
    return _normed(np.concatenate([weight, folded.bias[:, None]], 1), gate)


def _normed(rows: FloatArray, gate: Linear | None) -> FloatArray:
    """Divide by the Frobenius norm, or (gated MLPs: cosines) each row by its own."""
    if gate is None:
        return rows / max(float(np.linalg.norm(rows)), 1e-300)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300))


def _gather(pair: Pair, layer: AttentionLayer | MlpLayer, maps: Maps, evidence: Maps) -> None:
    """Add what a layer's weights say about the rotation before and after it."""
    readers: tuple[Linear, ...]
    if isinstance(layer, AttentionLayer):
        readers, writer, share = (layer.q, layer.k, layer.v), layer.o, 1 / 3
    else:
        readers = (layer.up,) if layer.gate is None else (layer.up, layer.gate)
        writer, share = layer.down, 1 / len(readers)
    for reader in readers:
        b, a = _inside(pair, reader, maps, skip=-1)
        evidence[layer.before] = evidence[layer.before] + share * (b.T @ a)
    b, a = _inside(pair, writer, maps, skip=0)
    evidence[layer.after] = evidence[layer.after] + b.T @ a


def _inside(pair: Pair, linear: Linear, maps: Maps, *, skip: int) -> tuple[FloatArray, FloatArray]:
    """Return B's and A's weight as (other axes, D), Frobenius norm one, A's inner axes moved."""
    axes = list(linear.axes)
    axes[skip] = None
    moved = move_weight(pair.a[linear.stem].weight, linear, maps, pair.body, tuple(axes))
    b, a = (_columns(x, skip) for x in (pair.b[linear.stem].weight, moved))
    return b, a


def _columns(array: FloatArray, axis: int) -> FloatArray:
    front = np.moveaxis(array, axis, -1)
    return front.reshape(-1, front.shape[-1]) / max(float(np.linalg.norm(array)), 1e-300)


def move_weight(
    weight: FloatArray,
    linear: Linear,
    maps: Mapping[str, MapArray],
    body: Body,
    axes: tuple[str | None, ...] | None = None,
) -> FloatArray:
    """Return a folded weight of A in B's basis, along the given axes (all by default)."""
    axes = linear.axes if axes is None else axes
    moved = transport(weight, axes, Alignment(maps, "anchored"), body.spaces, dual=linear.dual)
    return _signed(np.asarray(moved), linear, maps)


def _signed(array: FloatArray, linear: Linear, maps: Mapping[str, MapArray]) -> FloatArray:
    """Apply the signs of gated units, which hold for up and down but not for the gate."""
    name, _, part = linear.stem.rpartition(".mlp.")
    signs = maps.get(f"{name}.mlp_sign") if part in ("up", "down") else None
    if signs is None:
        return array
    axis = 0 if part == "up" else 1
    return array * signs.reshape([-1 if p == axis else 1 for p in range(array.ndim)])


def move(change: Folded, linear: Linear, maps: Mapping[str, MapArray], body: Body) -> Folded:
    """Return a folded change of A's linear map in B's basis."""
    outputs = tuple(range(linear.outputs))
    bias = transport(
        change.bias,
        linear.axes[: linear.outputs],
        Alignment(maps, "anchored"),
        body.spaces,
        dual=[p for p in outputs if p in linear.dual],
    )
    if linear.stem.endswith(".up"):
        bias = _signed(np.asarray(bias), linear, maps)
    return Folded(move_weight(change.weight, linear, maps, body), np.asarray(bias))


def _measured(pair: Pair, maps: Maps, rounds: int) -> Details:
    """Return how well the moved A fits B, weight by weight, on folded weights.

    The null model is a random rotation: mean 0, variance ||A||^2 ||B||^2 / size.
    """
    inner, ceiling, variance = {}, {}, {}
    for stem, linear in pair.body.linears.items():
        b, a = pair.b[stem].weight, move_weight(pair.a[stem].weight, linear, maps, pair.body)
        inner[stem] = float((b * a).sum())
        ceiling[stem] = float(np.linalg.norm(a) * np.linalg.norm(b))
        variance[stem] = ceiling[stem] ** 2 / a.size
    scores, deviations = {}, {}
    for space in pair.body.spaces:
        stems = [s for s, x in pair.body.linears.items() if space in x.axes]
        top, spread = (sum(table[s] for s in stems) for table in (ceiling, variance))
        if top > 0:
            total = sum(inner[s] for s in stems)
            scores[space], deviations[space] = total / top, total / float(np.sqrt(spread))
    total, top = sum(inner.values()), sum(ceiling.values())
    spread = float(np.sqrt(sum(variance.values())))
    return Details(
        objective=total, ceiling=top, sweeps=rounds, start="anchors", null_mean=0.0,
        null_std=spread, score=total / top if top else 0.0, z=total / spread if spread else 0.0,
        beyond_chance=None, space_scores=scores, space_z=deviations,
        lineage="independent", identity_cosine=0.0, identity_z=0.0,
    )  # fmt: skip
