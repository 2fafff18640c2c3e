"""Coordinate ascent on the objective: solve one space at a time with the others held.

* `propagate` starts from what is certain (anchors and heads) and solves each space from the
  weights whose other axes are already known, strongest evidence first.
* `climb` sweeps over all spaces until the relative gain of a sweep is below the tolerance, then
  re-matches heads if that raises the objective, and goes on.

Every accepted step raises the objective by more than rounding, so the ascent is monotone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphrebase.align.assignment import best_permutation
from graphrebase.align.evidence import Evidence, Maps
from graphrebase.align.heads import RELATIVE_GAIN, rematch
from graphrebase.align.maps import intra_partners
from graphrebase.align.spectral import is_head

Unit = tuple[str, ...]
"""Spaces that share one map and are solved together."""


@dataclass(frozen=True, slots=True)
class Climb:
    """Where an ascent ended.

    Attributes:
        maps: the final maps.
        history: the objective before the first and after every sweep.
        start: what it started from.
    """

    maps: Maps
    history: tuple[float, ...]
    start: str

    @property
    def objective(self) -> float:
        """The objective reached."""
        return self.history[-1]


def units(evidence: Evidence, intra: str) -> tuple[Unit, ...]:
    """Return the spaces to sweep over, in order of first appearance; heads are not among them.

    `paper` joins the two inner maps of a head, `split` keeps them apart.
    """
    problem = evidence.problem
    partners = intra_partners(problem.spaces) if intra == "paper" else {}
    joined = set(partners.values())
    found: list[Unit] = []
    for space in problem.ordered_spaces():
        name = space.name
        skip = name in joined or is_head(evidence, name) or space.size == 1
        unit = (name, partners[name]) if name in partners else (name,)
        if not skip and not problem.fixed.intersection(unit):
            found.append(unit)
    return tuple(found)


def propagate(evidence: Evidence, maps: Maps, unsolved: Sequence[Unit]) -> None:
    """Solve each unit once, from weights whose other axes are known; changes `maps`.

    Next is always the unit with most evidence: inner products of the greatest length. A residual
    shared by all layers is thus first solved from embeddings, head and norms.
    """
    left = list(unsolved)
    unknown = {name for unit in left for name in unit}
    while left:
        usable = {unit: _usable(evidence, unit, unknown) for unit in left}
        strength = {unit: _strength(evidence, unit, usable[unit]) for unit in left}
        unit = max(left, key=lambda unit: strength[unit])
        if strength[unit] == 0:
            return
        solve(evidence, maps, unit, usable[unit])
        left.remove(unit)
        unknown.difference_update(unit)


def _usable(evidence: Evidence, unit: Unit, unknown: Collection[str]) -> frozenset[int]:
    weights = evidence.problem.weights
    return frozenset(
        index
        for name in unit
        for index in evidence.touching[name]
        if weights[index].axes.count(name) == 1
        and not any(other in unknown for other in weights[index].spaces if other != name)
    )


def _strength(evidence: Evidence, unit: Unit, usable: Collection[int]) -> float:
    """Return the length of the inner products that the usable weights give one index."""
    spaces = evidence.problem.spaces
    return float(
        sum(
            np.prod(evidence.shape(index)) / np.prod(spaces[name].map_shape)
            for name in unit
            for index in evidence.touching[name]
            if index in usable
        )
    )


def solve(evidence: Evidence, maps: Maps, unit: Unit, among: Collection[int] | None = None) -> bool:
    """Give a unit its best map, everything else held; return whether it changed.

    Where the best is no better than the current map beyond rounding, the current map stays.
    """
    total = sum(evidence.similarity(name, maps, among) for name in unit)
    assert isinstance(total, np.ndarray)
    current = np.atleast_2d(maps[unit[0]])
    rows = np.arange(total.shape[-1])
    chosen = current.copy()
    for k, similarity in enumerate(total):
        best = best_permutation(similarity)
        new, old = float(similarity[rows, best].sum()), float(similarity[rows, current[k]].sum())
        if new - old > RELATIVE_GAIN * max(abs(new), abs(old)):
            chosen[k] = best
    if np.array_equal(chosen, current):
        return False
    return _accept(evidence, maps, unit, chosen.reshape(maps[unit[0]].shape), among)


def _accept(
    evidence: Evidence,
    maps: Maps,
    unit: Unit,
    chosen: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    among: Collection[int] | None,
) -> bool:
    """Set the map; where a weight has the space twice, only if the true objective rises."""
    weights = evidence.problem.weights
    quadratic = among is None and any(
        weights[index].axes.count(name) > 1 for name in unit for index in evidence.touching[name]
    )
    before = evidence.local_objective(unit, maps) if quadratic else 0.0
    old = [maps[name] for name in unit]
    for name in unit:
        maps.set(name, chosen)
    if quadratic and evidence.local_objective(unit, maps) <= before:
        for name, value in zip(unit, old, strict=True):
            maps.set(name, value)
        return False
    return True


@dataclass(frozen=True, slots=True)
class Stop:
    """When an ascent ends: at this relative gain of a sweep, or after this many sweeps."""

    tolerance: float = 1e-6
    max_sweeps: int = 100


def climb(
    evidence: Evidence,
    maps: Maps,
    swept: Sequence[Unit],
    stop: Stop,
    *,
    start: str,
    rng: np.random.Generator | None = None,
    refine_heads: bool = True,
) -> Climb:
    """Sweep over the units until nothing improves; changes `maps`.

    Args:
        evidence: the pair.
        maps: the start.
        swept: the units, in the order of a sweep.
        stop: the stopping rule.
        start: name of the start, for the record.
        rng: if given, each sweep visits the units in a random order.
        refine_heads: re-match heads by inner products once a sweep gains little.
    """
    history = [evidence.objective(maps)]
    settled: dict[Unit, tuple[int, ...]] = {}
    for _ in range(stop.max_sweeps):
        order = list(swept)
        if rng is not None:
            rng.shuffle(order)
        for unit in order:
            _visit(evidence, maps, unit, settled)
        history.append(evidence.objective(maps))
        if history[-1] - history[-2] > stop.tolerance * abs(history[-2]):
            continue
        if not (refine_heads and refine(evidence, maps, swept, stop.tolerance)):
            break
    history[-1] = evidence.objective(maps)
    return Climb(maps, tuple(history), start)


def _visit(
    evidence: Evidence, maps: Maps, unit: Unit, settled: dict[Unit, tuple[int, ...]]
) -> None:
    """Solve a unit unless neither it nor a neighbour changed since it was last solved."""
    around = [*unit, *(other for name in unit for other in evidence.neighbours(name))]
    if settled.get(unit) == maps.stamp(around):
        return
    solve(evidence, maps, unit)
    settled[unit] = maps.stamp(around)


def refine(evidence: Evidence, maps: Maps, swept: Sequence[Unit], tolerance: float) -> bool:
    """Re-match every head space by inner products; return whether the objective rose enough."""
    owner: Mapping[str, str] = {name: unit[0] for unit in swept for name in unit}
    heads = [s.name for s in evidence.problem.ordered_spaces() if is_head(evidence, s.name)]
    gain = sum(rematch(evidence, maps, head, owner) for head in heads)
    return gain > tolerance * abs(evidence.objective(maps))
