"""How good an alignment is: its objective against null models, per space, and the lineage.

Two nulls, because they answer two questions. *Random alignments* say whether the maps mean
anything at all (naive addition of unrelated models scores like a random alignment). But a method
that optimises beats random alignments on pure noise too, so the *same method on shuffled weights*
says how much of the score is more than that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.alignment import Details
from graphrebase.align.evidence import Evidence
from graphrebase.align.maps import IndexArray, identity_maps, random_maps
from graphrebase.align.registry import Found, Method, Options

FloatArray = NDArray[np.float64]
Lineage = Literal["identical", "same lineage", "permuted", "independent"]

RANDOM_DRAWS: Final = 8
"""Random alignments drawn for the null model."""
SHUFFLED_SWEEPS: Final = 5
"""Sweeps allowed on shuffled weights, where the ascent would otherwise run longest."""
LINEAGE_COSINE: Final = 0.2
"""Median cosine above the null from which A and B, as they are, count as one lineage."""
LINEAGE_Z: Final = 6.0
"""The same in standard deviations of the null."""
PERMUTED_SCORE: Final = 0.5
"""Score from which a pair of no common lineage counts as one model in two orders."""


@dataclass(frozen=True, slots=True)
class NullModel:
    """Random alignments of a pair.

    Attributes:
        inner: float64 (draws, weights): <B, T A> of each movable weight.
    """

    inner: FloatArray

    @property
    def mean(self) -> float:
        """Mean objective."""
        return float(self.inner.sum(axis=1).mean())

    @property
    def std(self) -> float:
        """Standard deviation of the objective."""
        return float(self.inner.sum(axis=1).std(ddof=1))


def inner_products(evidence: Evidence, maps: Mapping[str, IndexArray]) -> FloatArray:
    """Return <B, T A> of each movable weight, float64 (weights,)."""
    return np.array([evidence.inner(index, maps) for index in evidence.movable])


def objective(evidence: Evidence, maps: Mapping[str, IndexArray]) -> float:
    """Return the sum of <B, T A> over the movable weights."""
    return float(inner_products(evidence, maps).sum())


def null_model(evidence: Evidence, *, seed: int = 0, draws: int = RANDOM_DRAWS) -> NullModel:
    """Return the inner products of random alignments, the same for the same seed."""
    problem = evidence.problem
    rng = np.random.default_rng([seed, 1])
    maps = (random_maps(problem.spaces, rng, fixed=problem.fixed) for _ in range(draws))
    return NullModel(np.stack([inner_products(evidence, drawn) for drawn in maps]))


def details(
    evidence: Evidence,
    found: Found,
    *,
    seed: int = 0,
    shuffled: Sequence[float] = (),
) -> Details:
    """Score what a method found.

    Args:
        evidence: the pair.
        found: the method's maps.
        seed: of the random alignments.
        shuffled: objectives the same method reached on shuffled weights, if any.
    """
    null = null_model(evidence, seed=seed)
    got = inner_products(evidence, found.maps)
    ceilings = np.array([evidence.norms(index) for index in evidence.movable])
    total, ceiling = float(got.sum()), float(ceilings.sum())
    per_space = _per_space(evidence, got, ceilings, null)
    score = _ratio(total, null.mean, ceiling)
    cosine, z = identity_evidence(evidence, null, ceilings)
    return Details(
        objective=total,
        ceiling=ceiling,
        sweeps=max(len(found.history) - 1, 0),
        start=found.start,
        null_mean=null.mean,
        null_std=null.std,
        score=score,
        z=_z(total, null.mean, null.std),
        beyond_chance=_ratio(total, float(np.mean(shuffled)), ceiling) if shuffled else None,
        space_scores={name: pair[0] for name, pair in per_space.items()},
        space_z={name: pair[1] for name, pair in per_space.items()},
        lineage=_verdict(evidence, cosine, z, score),
        identity_cosine=cosine,
        identity_z=z,
    )


def lineage(evidence: Evidence, *, seed: int = 0) -> tuple[Lineage, float, float]:
    """Say whether B descends from A in the same order, before any method has run.

    Returns:
        The verdict (never `permuted`, which only a method can find), the median cosine of A and B
        above the null, and that in standard deviations of the null.
    """
    ceilings = np.array([evidence.norms(index) for index in evidence.movable])
    cosine, z = identity_evidence(evidence, null_model(evidence, seed=seed), ceilings)
    return _verdict(evidence, cosine, z, 0.0), cosine, z


def identity_evidence(
    evidence: Evidence, null: NullModel, ceilings: FloatArray
) -> tuple[float, float]:
    """Return the median cosine of A and B above its null mean, and that in null deviations.

    The median over the weights with two axes or more (all, if there are none): one large or one
    copied tensor does not decide, and gains that are one everywhere do not count.
    """
    if not evidence.movable:
        return 0.0, 0.0
    spaces = evidence.problem.spaces
    got = inner_products(evidence, identity_maps(spaces))
    matrix = np.array([len(evidence.shape(index)) > 1 for index in evidence.movable])
    keep = (matrix if matrix.any() else ~matrix) & (ceilings > 0)
    if not keep.any():
        return 0.0, 0.0
    above = (got - null.inner.mean(axis=0))[keep] / ceilings[keep]
    noise = (null.inner - null.inner.mean(axis=0))[:, keep] / ceilings[keep]
    spread = float(np.median(noise, axis=1).std(ddof=1))
    cosine = float(np.median(above))
    return cosine, _z(cosine, 0.0, spread)


def shuffled_objectives(
    evidence: Evidence, method: Method, options: Options, draws: int
) -> tuple[float, ...]:
    """Return what a method reaches on weights whose entries are shuffled.

    At most 5 sweeps per draw: a slightly low null, at bounded cost. Holds one shuffled copy of A
    while it runs.
    """
    limited = replace(options, max_sweeps=min(options.max_sweeps, SHUFFLED_SWEEPS))
    reached = []
    for draw in range(draws):
        mixed = evidence.shuffled(options.seed + draw)
        reached.append(objective(mixed, method(mixed, limited).maps))
    return tuple(reached)


def _per_space(
    evidence: Evidence, got: FloatArray, ceilings: FloatArray, null: NullModel
) -> dict[str, tuple[float, float]]:
    where = {index: column for column, index in enumerate(evidence.movable)}
    found = {}
    for name, touching in evidence.touching.items():
        columns = [where[index] for index in touching]
        if not columns:
            continue
        draws = null.inner[:, columns].sum(axis=1)
        value, ceiling = float(got[columns].sum()), float(ceilings[columns].sum())
        mean = float(draws.mean())
        found[name] = (_ratio(value, mean, ceiling), _z(value, mean, float(draws.std(ddof=1))))
    return found


def _verdict(evidence: Evidence, cosine: float, z: float, score: float) -> Lineage:
    if evidence.equal():
        return "identical"
    if cosine >= LINEAGE_COSINE and z >= LINEAGE_Z:
        return "same lineage"
    return "permuted" if score >= PERMUTED_SCORE else "independent"


def _ratio(value: float, zero: float, one: float) -> float:
    """Return where a value lies between two marks; 0.0 where they coincide."""
    span = one - zero
    return (value - zero) / span if span > 0 else 0.0


def _z(value: float, mean: float, std: float) -> float:
    return (value - mean) / std if std > 0 else 0.0
