"""The `fit` method: the residual stream of B is made to move as A's did, in closed form.

Block by block, on the already updated B, one ridge regression solves the second layer of the MLP,
so that every block corrects for what the blocks below really do. Forward passes only. Three sums
per block are kept (a Gram matrix, a product and a count), in float64, over mini-batches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import linalg

from graphrebase.align.activations import Activations, Role
from graphrebase.align.alignment import Alignment, Details, MapArray, transport
from graphrebase.align.anchored import find_anchored
from graphrebase.align.body import Body, FloatArray, MlpLayer, Read, Tower
from graphrebase.align.folding import required

Progress = Callable[[str, int, int], None]
"""Told what is done, how many steps of it and of how many."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit (measured defaults).

    Attributes:
        ridge: regularisation as a share of the mean diagonal of the Gram matrix.
        keep: weight of all keep probes together, as a share of the others'.
        evidence: weight of activations among the evidence of the residual maps.
        rounds: rounds of the alignment.
    """

    ridge: float = 0.03
    keep: float = 0.3
    evidence: float = 1.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit gives.

    Attributes:
        maps: of the alignment, residual maps orthogonal.
        details: how well the weights align.
        changes: what to add to B's roles at alpha = 1; B's other roles stay.
    """

    maps: dict[str, MapArray]
    details: Details
    changes: dict[str, FloatArray]


def find_fit(
    body: Body,
    read_a: Read,
    read_finetuned: Read,
    read_b: Read,
    activations: Activations,
    options: FitOptions,
    head_changes: Callable[[Alignment], Mapping[str, FloatArray]],
    tied: Mapping[str, str],
    progress: Progress = lambda *_: None,
) -> Fitted:
    """Return the changes of B that carry the fine-tuning over.

    Args:
        body: what A and B have in common.
        read_a: A's roles.
        read_finetuned: A_ft's roles.
        read_b: B's roles.
        activations: the three models on the probes.
        options: how to fit.
        head_changes: gives the changes of shared heads under an alignment.
        tied: roles that hold one another's values in B.
        progress: told about every step.
    """
    progress("aligning activations", 0, 1)
    seen = compare_streams(body, activations)
    evidence = {p: options.evidence * s.evidence for p, s in seen.items()}
    maps, details = find_anchored(body, read_a, read_b, rounds=options.rounds, extra=evidence)
    scaled = {p: maps[p] * s.ratio for p, s in seen.items()}
    changes: dict[str, FloatArray] = {}
    for tower in body.towers:
        changes |= _input_changes(tower, body, read_a, read_finetuned, scaled)
    changes |= head_changes(Alignment(maps, "fit"))
    untied = dict(changes)
    changes |= {
        role: (untied[role] + untied[other]) / 2
        for role, other in tied.items()
        if role in untied and other in untied
    }
    _fit_layers(body, read_b, activations, options, scaled, changes, progress)
    return Fitted(maps, details, changes)


@dataclass(slots=True)
class Comparison:
    """Sums over tokens of two streams at one point, for rotation and size."""

    cross: FloatArray
    means: list[FloatArray] = field(default_factory=list)
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    raw_means: list[FloatArray] = field(default_factory=list)
    raw_squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    count: float = 0.0

    def add(self, b: FloatArray, a: FloatArray, weights: FloatArray, *, centred: bool) -> None:
        """Count a mini-batch of both streams, (tokens, D) each."""
        self.count += float(weights.sum())
        normed = []
        for side, x in enumerate((b, a)):
            x = x - x.mean(axis=1, keepdims=True) if centred else x
            unit = x / np.maximum(np.sqrt((x**2).mean(axis=1, keepdims=True)), 1e-12)
            if len(self.means) <= side:
                self.means.append(np.zeros(x.shape[1]))
                self.raw_means.append(np.zeros(x.shape[1]))
            self.means[side] += weights @ unit
            self.raw_means[side] += weights @ x
            self.squares[side] += float(weights @ (unit**2).sum(1))
            self.raw_squares[side] += float(weights @ (x**2).sum(1))
            normed.append(unit)
        self.cross += (normed[0] * weights[:, None]).T @ normed[1]

    @property
    def evidence(self) -> FloatArray:
        """x_B^T x_A without the means over tokens, over both Frobenius norms."""
        n = max(self.count, 1.0)
        centred = self.cross - np.outer(*self.means) / n
        norms = _norms(self.squares, self.means, n)
        return centred / max(norms[0] * norms[1], 1e-300)

    @property
    def ratio(self) -> float:
        """||r_B - mean|| / ||r_A - mean||."""
        b, a = _norms(self.raw_squares, self.raw_means, max(self.count, 1.0))
        return b / a if a > 0 else 1.0


def _norms(squares: list[float], sums: list[FloatArray], count: float) -> tuple[float, float]:
    b, a = (
        float(np.sqrt(max(s - float(m @ m) / count, 0.0)))
        for s, m in zip(squares, sums, strict=True)
    )
    return b, a


def compare_streams(body: Body, activations: Activations) -> dict[str, Comparison]:
    """Return how A's and B's streams compare at every point, over all probes."""
    found = {
        point: Comparison(np.zeros((body.width(point),) * 2))
        for tower in body.towers
        for point in tower.points
    }
    for kept in (False, True):
        both = zip(
            activations.streams("target", kept=kept),
            activations.streams("base", kept=kept),
            activations.weights(kept=kept, last=False),
            strict=True,
        )
        for b, a, weights in both:
            for tower in body.towers:
                for point in tower.points:
                    found[point].add(b[point], a[point], weights, centred=tower.centred)
    return found


def _input_changes(
    tower: Tower, body: Body, read_a: Read, read_finetuned: Read, scaled: dict[str, FloatArray]
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
            tuned = read_finetuned(role)
            if tuned is None or tuned.shape != required(read_a, role).shape:
                continue
            vector = tuned - required(read_a, role)
            moved = transport(vector, axes, Alignment(scaled, "fit"), body.spaces)
            changes[role] = np.asarray(moved)
    return changes


def _fit_layers(
    body: Body,
    read_b: Read,
    activations: Activations,
    options: FitOptions,
    scaled: dict[str, FloatArray],
    changes: dict[str, FloatArray],
    progress: Progress,
) -> None:
    """Solve the second layer of every MLP, from the first to the last, adding to `changes`."""
    layers = [(t, x) for t in body.towers for x in t.layers if isinstance(x, MlpLayer)]
    with tempfile.TemporaryDirectory(prefix="graphrebase-") as folder:
        goals = Goals(Path(folder), activations, scaled, tuple(x.after for _, x in layers))
        for number, (tower, layer) in enumerate(layers):
            progress("fitting", number, len(layers))
            last = layer.after == tower.points[-1]
            updated = {role: required(read_b, role) + c for role, c in changes.items()}
            solved = _solve(tower, layer, goals, activations, options, updated, read_b, last=last)
            changes |= solved
        progress("fitting", len(layers), len(layers))


class Goals:
    """Where B's stream should be after every MLP, r_B + g F (r_Aft - r_A), kept in a folder."""

    def __init__(
        self,
        folder: Path,
        activations: Activations,
        scaled: dict[str, FloatArray],
        points: tuple[str, ...],
    ) -> None:
        """Run the three models once and store float32 goals."""
        self._folder = folder
        self._counts: dict[bool, int] = {}
        for kept in (False, True):
            models: tuple[Role, ...] = ("target",) if kept else ("target", "finetuned", "base")
            number = -1
            streams = (activations.streams(model, kept=kept) for model in models)
            for number, (b, *others) in enumerate(zip(*streams, strict=True)):
                for point in points:
                    goal = b[point]
                    if others:
                        change = others[0][point] - others[1][point]
                        goal = goal + change @ scaled[point].T
                    np.save(self._file(point, number, kept), goal.astype(np.float32))
            self._counts[kept] = number + 1

    def _file(self, point: str, number: int, kept: bool) -> Path:
        return self._folder / f"{point}.{number}.{int(kept)}.npy"

    def read(self, point: str, *, kept: bool) -> Iterator[FloatArray]:
        """Yield the goals of every mini-batch, (tokens, D), each once."""
        for number in range(self._counts[kept]):
            path = self._file(point, number, kept)
            yield np.load(path).astype(np.float64)
            path.unlink()


def _solve(
    tower: Tower,
    layer: MlpLayer,
    goals: Goals,
    activations: Activations,
    options: FitOptions,
    updated: dict[str, FloatArray],
    read_b: Read,
    *,
    last: bool,
) -> dict[str, FloatArray]:
    """Return the changes of one second layer: ridge regression of what is missing on its input.

    dW^T = (sum w h h^T + ridge * mean diagonal * I)^-1 sum w h R^T, with h its input (and a one,
    where it has a bias) and R what the stream lacks to its goal.
    """
    has_bias = read_b(layer.down.bias) is not None
    sums: list[tuple[FloatArray, FloatArray, float]] = []
    for kept in (False, True):
        gram, product, total = np.zeros(1), np.zeros(1), 0.0
        batches = zip(
            activations.updated(layer.name, updated, kept=kept),
            goals.read(layer.after, kept=kept),
            activations.weights(kept=kept, last=last),
            strict=True,
        )
        for (hidden, stream), goal, weights in batches:
            lacking = goal - stream
            if tower.centred:
                lacking = lacking - lacking.mean(axis=1, keepdims=True)
            if has_bias:
                hidden = np.concatenate([hidden, np.ones((len(hidden), 1))], 1)
            weighted = hidden * weights[:, None]
            gram, product = gram + weighted.T @ hidden, product + weighted.T @ lacking
            total += float(weights.sum())
        sums.append((gram, product, total))
    (gram, product, count), (kept_gram, kept_product, kept_count) = sums
    share = options.keep * count / kept_count if kept_count else 0.0
    gram, product = gram + share * kept_gram, product + share * kept_product
    gram[np.diag_indices(len(gram))] += options.ridge * max(float(gram.trace()) / len(gram), 1e-12)
    change = np.asarray(linalg.solve(gram, product, assume_a="pos")).T
    if layer.down.scale is not None:
        scale = required(read_b, layer.down.scale)
        change = change / np.where(np.abs(scale) < 1e-6, np.inf, scale)[:, None]
    width = required(read_b, layer.down.weight).shape[1]
    found = {layer.down.weight: change[:, :width]}
    return found | ({layer.down.bias: change[:, width]} if has_bias else {})
