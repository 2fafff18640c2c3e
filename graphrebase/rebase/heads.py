"""Heads that only A_ft has: which they are, how they are moved, and fitted again on probes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from graphrebase.align.anchored import move
from graphrebase.align.body import FloatArray
from graphrebase.align.folding import fold, unfold
from graphrebase.align.head import Head, Readings, Refit, refit
from graphrebase.rebase.feeds import complete
from graphrebase.rebase.folded import FittedMove, FoldedMove
from graphrebase.rebase.plan import CARRIED, Heads, replacements
from graphrebase.rebase.trial import Candidate
from graphrebase.runtime import exposed
from graphrebase.runtime.batches import outputs, sample_count
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Role, Structure

ELEMENTS = 1 << 26
"""Elements of the features that are held in memory; beyond it rows are left out, evenly."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class NewHead:
    """A head that only A_ft has.

    Attributes:
        last: stem of its last linear map, which is fitted again.
        roles: all its roles, up to the residual stream.
    """

    last: str
    roles: tuple[str, ...]


def new_heads(candidate: Candidate) -> tuple[NewHead, ...]:
    """Return the heads of A_ft that B lacks."""
    finetuned = candidate.vector.finetuned
    carried = {e.role for e in candidate.plan if e.action == CARRIED}
    linears = {n: r for n, r in finetuned.roles.items() if r.kind == "head" and r.reads}
    found = []
    for name, role in linears.items():
        followed = finetuned.graph.upstream(r.reads for r in linears.values())
        if name in carried and name.endswith(".weight") and role.writes not in followed:
            before = finetuned.graph.upstream([role.reads])
            roles = [n for n, r in finetuned.roles.items() if _inside(finetuned, r, before)]
            stem = name.removesuffix(".weight")
            own = [n for n in (name, f"{stem}.bias") if n in finetuned.roles]
            found.append(NewHead(stem, tuple(dict.fromkeys([*roles, *own]))))
    return tuple(found)


def _inside(structure: Structure, role: Role, before: set[str]) -> bool:
    """Return whether a role of a head belongs to what leads to certain values."""
    node = structure.graph.nodes[role.order]
    return role.kind == "head" and not before.isdisjoint(node.outputs)


def with_moved_heads(candidate: Candidate) -> Candidate:
    """Return a candidate whose new heads are A_ft's, what reads the stream moved.

    Units inside a head keep A_ft's order: nothing outside sees them. Permutation methods move a
    head with everything else, and keep theirs.
    """
    folded = candidate.vector.folded
    if isinstance(folded, FittedMove):
        folded = folded.folded
    if folded is None:
        return candidate
    roles = dict.fromkeys(name for head in new_heads(candidate) for name in head.roles)
    moved = {name: _moved(folded, candidate.vector.finetuned, name) for name in roles}
    return replace(candidate, vector=replace(candidate.vector, heads=Heads(moved)))


def _moved(folded: FoldedMove, finetuned: Structure, role: str) -> FloatArray:
    stem, _, part = role.rpartition(".")
    linear = folded.heads.get(stem)
    if linear is None:
        return np.asarray(finetuned.read(role), np.float64)
    moved = move(fold(linear, folded.finetuned), linear, folded.alignment.maps, folded.body)
    plain = unfold(linear, moved, folded.target)
    return plain.weight if part == "weight" else plain.bias


@dataclass(frozen=True, slots=True)
class Refitted:
    """A candidate with its new heads fitted again.

    Attributes:
        candidate: the candidate.
        samples: probes that they were fitted on.
        fits: how well that went, by stem.
    """

    candidate: Candidate
    samples: int
    fits: Mapping[str, Refit] = field(default_factory=dict)

    @property
    def lost(self) -> float:
        """Mean divergence from A_ft on probes that the head was fitted without."""
        return sum(fit.lost for fit in self.fits.values())

    @property
    def moved(self) -> float:
        """The same with the head only moved."""
        return sum(fit.moved for fit in self.fits.values())


def refit_heads(
    candidate: Candidate, probes: Arrays, vocabularies: Vocabularies | None = None
) -> Refitted:
    """Return a candidate whose new heads are fitted to A_ft's own logits on probes.

    Args:
        candidate: with moved heads.
        probes: inputs of A_ft, axis 0 the samples.
        vocabularies: of A and B, where they differ.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: the probes do not fit the models.
    """
    heads = new_heads(candidate)
    vector, holder = candidate.vector, candidate.holder
    reads = {h.last: holder.roles[f"{h.last}.weight"].reads for h in heads}
    writes = {h.last: vector.finetuned.roles[f"{h.last}.weight"].writes for h in heads}
    built = replacements(vector, candidate.plan, holder)
    weights = {tensor: make() for tensor, make in built.items()}
    own = probes if vocabularies is None else vocabularies.to_new(probes)[0]
    seen = _values(holder, list(reads.values()), own, weights)
    wanted = _values(vector.finetuned, list(writes.values()), probes, {})
    solved: dict[str, FloatArray] = {}
    fits: dict[str, Refit] = {}
    for head in heads:
        readings = _readings(seen[reads[head.last]], wanted[writes[head.last]], probes)
        start, has_bias = _start(candidate, head.last)
        fit = refit(readings, start, has_bias=has_bias)
        fits[head.last] = fit
        solved[f"{head.last}.weight"] = fit.head.weight
        if has_bias:
            solved[f"{head.last}.bias"] = fit.head.bias
    known = Heads({}) if vector.heads is None else vector.heads
    vector = replace(vector, heads=replace(known, refitted=solved))
    samples = sample_count(probes)
    return Refitted(replace(candidate, vector=vector), samples, fits)


def _start(candidate: Candidate, stem: str) -> tuple[Head, bool]:
    """Return the moved head, and whether the model has a bias for it."""
    vector = candidate.vector
    weight = vector.carried(f"{stem}.weight")
    has_bias = f"{stem}.bias" in vector.finetuned.roles
    bias = vector.carried(f"{stem}.bias") if has_bias else np.zeros(len(weight))
    return Head(np.asarray(weight), np.asarray(bias)), has_bias


def _values(
    structure: Structure, names: list[str], probes: Arrays, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return values of a model on all probes, (samples, .., D) each."""
    session = exposed(structure.model, list(dict.fromkeys(names)), weights)
    inputs = complete(session, probes)
    return outputs(session, inputs, list(dict.fromkeys(names)))


def _readings(features: np.ndarray, wanted: np.ndarray, probes: Arrays) -> Readings:
    """Return rows of features and logits; padding counts for nothing."""
    samples = len(features)
    per_sample = math.prod(features.shape[1:-1])
    weights = np.ones(features.shape[:-1])
    for name, array in probes.items():
        if "mask" in name.lower() and array.shape == weights.shape:
            weights *= array != 0
    rows = np.arange(weights.size)[:: max(1, math.ceil(features.size / ELEMENTS))]
    flat = features.reshape(-1, features.shape[-1])[rows]
    goals = wanted.reshape(-1, wanted.shape[-1])[rows]
    return Readings(
        flat.astype(np.float64),
        goals.astype(np.float64),
        weights.reshape(-1)[rows],
        np.repeat(np.arange(samples), per_sample)[rows],
    )
