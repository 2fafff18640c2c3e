"""The published matcher with its known defects, written from their description: a yardstick.

Heads by singular values of the matrices, again in every sweep; the maps inside heads (one for Q,
K, V and O, biases unseen) only from the second sweep on; everything else by assignment. An
attention group overwrites the record of progress of the attention groups before it; reverse order
stops before index 0; progress is judged by an absolute 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphrebase.align.ascent import units
from graphrebase.align.assignment import best_permutation
from graphrebase.align.evidence import Evidence, Maps
from graphrebase.align.maps import IndexArray, identity_maps
from graphrebase.align.problem import AlignmentProblem
from graphrebase.align.spectral import match_heads

Order = Callable[[int], Sequence[int]]


def natural(count: int) -> Sequence[int]:
    """First to last."""
    return range(count)


def backward(count: int) -> Sequence[int]:
    """Last to first, without index 0."""
    return range(count - 1, 0, -1)


def shuffled(seed: int) -> Order:
    """A new random order in every sweep."""
    rng = np.random.default_rng(seed)
    return lambda count: list(rng.permutation(count))


def published(problem: AlignmentProblem, order: Order, sweeps: int = 100) -> dict[str, IndexArray]:
    """Return the maps the published algorithm ends with."""
    evidence = Evidence(problem)
    maps = Maps(identity_maps(problem.spaces))
    groups = [unit for unit in units(evidence, "paper") if "head" not in unit[0]]
    groups += [(space.name,) for space in problem.ordered_spaces() if space.kind == "head"]
    for sweep in range(sweeps):
        plain = attention = False
        for position in order(len(groups)):
            group = groups[position]
            before = evidence.objective(maps)
            if problem.spaces[group[0]].kind == "head":
                _attention(evidence, maps, group[0], inside=sweep > 0)
                attention = evidence.objective(maps) > before + 1e-12
            else:
                _assign(evidence, maps, group, frozenset(range(len(problem.weights))))
                plain = plain or evidence.objective(maps) > before + 1e-12
        if not (plain or attention):
            break
    return dict(maps.arrays())


def _attention(evidence: Evidence, maps: Maps, head: str, *, inside: bool) -> None:
    matched = match_heads(evidence, with_bias=False)
    for name in (head, *(s.name for s in evidence.problem.children(head))):
        if name in matched:
            maps.set(name, matched[name])
    unbiased = frozenset(
        i for i, w in enumerate(evidence.problem.weights) if not w.role.endswith("bias")
    )
    for unit in units(evidence, "paper"):
        if inside and evidence.problem.spaces[unit[0]].over == head:
            _assign(evidence, maps, unit, unbiased)


def _assign(evidence: Evidence, maps: Maps, unit: tuple[str, ...], among: frozenset[int]) -> None:
    total = np.sum([evidence.similarity(name, maps, among) for name in unit], axis=0)
    best = np.stack([best_permutation(similarity) for similarity in total])
    for name in unit:
        maps.set(name, best.reshape(evidence.problem.spaces[name].map_shape))
