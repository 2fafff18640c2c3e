"""The `fit` method: the residual stream of B is made to move as A's did, in closed form.

Block by block, on the already updated B, one ridge regression solves the second layer of the MLP
(and before it, where that is asked for, the output map of the attention), so that every block
corrects for what the blocks below really do. The last one is then refined for the logits themselves
(`readout`). Forward passes only. Gram matrices are summed in float64 over mini-batches; streams
wait in a temporary folder.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import linalg

from graphrebase.align.action import transport
from graphrebase.align.activations import Activations
from graphrebase.align.alignment import Alignment, Details
from graphrebase.align.anchored import (
    Anchors,
    Pair,
    find_first_anchor,
    find_last_anchor,
    match_heads,
    match_hidden,
)
from graphrebase.align.body import AttentionLayer, Body, FloatArray, Layer, Linear, MlpLayer, Tower
from graphrebase.align.folding import fold, fold_heads, required
from graphrebase.align.last_block import LastBlock, shared_head, with_ones
from graphrebase.align.maps import MapArray
from graphrebase.align.recipe import FitOptions, Models, Updated
from graphrebase.align.record import Record
from graphrebase.align.streams import Comparison, StreamMap, map_streams

Progress = Callable[[str, int, int], None]
"""Told what is done, how many steps of it and of how many."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit gives.

    Attributes:
        maps: of the alignment, residual maps orthogonal.
        details: how well the streams align.
        changes: what to add to B's roles at alpha = 1; B's other roles stay.
    """

    maps: dict[str, MapArray]
    details: Details
    changes: dict[str, FloatArray]


def find_fit(
    body: Body,
    models: Models,
    activations: Activations,
    options: FitOptions,
    moved: Callable[[Alignment, Iterable[Linear]], Mapping[str, FloatArray]],
    tied: Mapping[str, str],
    progress: Progress = lambda *_: None,
) -> Fitted:
    """Return the changes of B that carry the fine-tuning over.

    Args:
        body: what A and B have in common.
        models: their roles.
        activations: the three models on the probes.
        options: how to fit.
        moved: gives the moved task vectors, under an alignment, of those of some linear maps that
            all three models have.
        tied: roles that hold one another's values in B.
        progress: told about every step.
    """
    with tempfile.TemporaryDirectory(prefix="graphrebase-") as folder:
        progress("comparing streams", 0, 1)
        record = Record(Path(folder), body, activations, attention=options.attention)
        maps = _maps(body, models, record.seen, options)
        scaled = {p: m.scaled for p, m in maps.items()}
        rotations: dict[str, MapArray] = {p: m.rotation for p, m in maps.items()}
        rotations |= match_hidden(_heads(body, models), rotations, models.base, models.target)
        changes: dict[str, FloatArray] = {}
        for tower in body.towers:
            changes |= _input_changes(tower, body, models, scaled)
        heads = [head for tower in body.towers for head in tower.heads]
        changes |= moved(Alignment(rotations, "fit"), heads)
        if options.looks:
            looks = _look_changes(body, models, rotations, moved)
            changes |= {role: options.looks * change for role, change in looks.items()}
        changes |= {
            role: (changes[role] + changes[other]) / 2
            for role, other in tied.items()
            if role in changes and other in changes
        }
        fit = _Fit(body, models, activations, options, scaled, record)
        fit.layers(changes, progress)
    return Fitted(rotations, _details(maps), changes)


def _heads(body: Body, models: Models) -> Pair:
    """Return the folded heads of both models."""
    return Pair(body, fold_heads(body, models.base), fold_heads(body, models.target))


def _maps(
    body: Body, models: Models, seen: Mapping[str, Comparison], options: FitOptions
) -> dict[str, StreamMap]:
    found: dict[str, StreamMap] = {}
    for tower in body.towers:
        shape = body.map_shape(tower.points[0])
        first = find_first_anchor(tower, models.base, models.target, shape)  # tables are large
        anchors = Anchors(first, find_last_anchor(tower, _heads(body, models), shape))
        found |= map_streams(tower, seen, anchors, weight=options.evidence)
    return found


def _details(maps: Mapping[str, StreamMap]) -> Details:
    """Return how well streams align: correlations, beside those of random rotations."""
    correlation = {p: m.correlation for p, m in maps.items()}
    total = sum(correlation.values())
    spread = float(np.sqrt(sum(m.chance**2 for m in maps.values())))
    return Details(
        objective=total, ceiling=float(len(maps)), sweeps=1, start="activations", null_mean=0.0,
        null_std=spread, score=total / len(maps), z=total / spread if spread else 0.0,
        beyond_chance=None, space_scores=correlation,
        space_z={p: m.correlation / m.chance if m.chance else 0.0 for p, m in maps.items()},
        lineage="independent", identity_cosine=0.0, identity_z=0.0,
    )  # fmt: skip


def _input_changes(
    tower: Tower, body: Body, models: Models, scaled: dict[str, FloatArray]
) -> dict[str, FloatArray]:
    """Return the moved task vectors of everything that writes to the first point."""
    point, inputs = tower.points[0], tower.inputs
    changes = {}
    for roles, axes in (
        (inputs.tables, (None, point)),
        (inputs.filters, (point, None)),
        (inputs.biases + inputs.tokens, (point,)),
    ):
        for role in roles:
            tuned = models.finetuned(role)
            if tuned is None or tuned.shape != required(models.base, role).shape:
                continue
            vector = tuned - required(models.base, role)
            moved = transport(vector, axes, Alignment(scaled, "fit"), body.spaces)
            changes[role] = np.asarray(moved)
    return changes


def _look_changes(
    body: Body,
    models: Models,
    rotations: Mapping[str, MapArray],
    moved: Callable[[Alignment, Iterable[Linear]], Mapping[str, FloatArray]],
) -> dict[str, FloatArray]:
    """Return the moved task vectors of queries and keys: of where attention looks."""
    changes: dict[str, FloatArray] = {}
    layers = [x for t in body.towers for x in t.layers if isinstance(x, AttentionLayer)]
    for layer in layers:  # one after the other: folded weights are in double precision
        folded = [{x.stem: fold(x, r) for x in layer.linears} for r in (models.base, models.target)]
        maps = {**rotations, **match_heads(Pair(body, *folded), layer, rotations)}
        changes |= moved(Alignment(maps, "fit"), (layer.q, layer.k))
    return changes


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over tokens for one ridge regression."""

    gram: FloatArray
    product: FloatArray
    count: float


@dataclass(frozen=True, slots=True)
class _Fit:
    """Solves one layer's last map after the other."""

    body: Body
    models: Models
    activations: Activations
    options: FitOptions
    scaled: Mapping[str, FloatArray]
    record: Record

    def layers(self, changes: dict[str, FloatArray], progress: Progress) -> None:
        """Solve every layer's last map, from the first to the last, adding to `changes`."""
        layers = [
            (t, x) for t in self.body.towers for x in t.solved(attention=self.options.attention)
        ]
        for number, (tower, layer) in enumerate(layers):
            progress("fitting", number, len(layers))
            changes |= self._layer(tower, layer, changes)
        progress("fitting", len(layers), len(layers))

    def _layer(
        self, tower: Tower, layer: Layer, changes: Mapping[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Return the changes of one layer's last map.

        dW^T = (sum w h h^T + ridge * mean diagonal * I)^-1 sum w h R^T, with h its input (and a
        one, where it has a bias) and R what the stream lacks to its goal.
        """
        updated = Updated(self.models.target, changes)
        has_bias = self.models.target(layer.writer.bias) is not None
        task, keep = (self._sums(tower, layer, updated, kept, has_bias) for kept in (False, True))
        share = self.options.keep * task.count / keep.count if keep.count else 0.0
        gram, product = task.gram + share * keep.gram, task.product + share * keep.product
        ridge = self.options.ridge * max(float(gram.trace()) / len(gram), 1e-12)
        gram[np.diag_indices(len(gram))] += ridge
        change = np.asarray(linalg.solve(gram, product, assume_a="pos")).T
        if isinstance(layer, MlpLayer) and layer.after == tower.points[-1] and self.options.steps:
            change = self._refined(tower, layer, change, gram, updated, share)
        return self._written(layer, change, has_bias)

    def _refined(
        self,
        tower: Tower,
        layer: MlpLayer,
        change: FloatArray,
        gram: FloatArray,
        updated: Updated,
        share: float,
    ) -> FloatArray:
        head = shared_head(tower, self.models, self.activations, self.record)
        if head is None:
            return change
        has_bias = self.models.target(layer.down.bias) is not None
        block = LastBlock(
            head, layer, self.models, self.activations, self.record, self.options, has_bias
        )
        return block.refined(change, gram, updated, self.scaled[layer.after], share)

    def _sums(
        self,
        tower: Tower,
        layer: Layer,
        updated: Mapping[str, FloatArray],
        kept: bool,
        has_bias: bool,
    ) -> _Sums:
        gram, product, total = np.zeros((1, 1)), np.zeros((1, 1)), 0.0
        batches = zip(
            self.activations.updated(layer.writer.stem, updated, kept=kept),
            self.record.goals(layer.after, self.scaled[layer.after], kept=kept),
            self.activations.weights(kept=kept, last=not tower.reads_ahead(layer)),
            strict=True,
        )
        for (hidden, stream), goal, by_point in batches:
            lacking, weights = goal - stream, by_point[layer.after]
            if tower.centred:
                lacking = lacking - lacking.mean(axis=1, keepdims=True)
            inputs = with_ones(hidden) if has_bias else hidden
            # Single precision inside a mini-batch, double over them; root.T @ root is symmetric,
            # which BLAS knows to use.
            shares = np.sqrt(weights)[:, None]
            root = (inputs * shares).astype(np.float32)
            wanted = (lacking * shares).astype(np.float32)
            gram, product = gram + root.T @ root, product + root.T @ wanted
            total += float(weights.sum())
        return _Sums(gram, product, total)

    def _written(self, layer: Layer, change: FloatArray, has_bias: bool) -> dict[str, FloatArray]:
        """Return the change of a layer's roles, LayerScale divided out."""
        writer = layer.writer
        if writer.scale is not None:
            scale = required(self.models.target, writer.scale)
            change = change / np.where(np.abs(scale) < 1e-6, np.inf, scale)[:, None]
        shape = required(self.models.target, writer.weight).shape
        width = math.prod(shape[1:])
        found = {writer.weight: change[:, :width].reshape(shape)}
        return found | ({writer.bias: change[:, width]} if has_bias else {})
