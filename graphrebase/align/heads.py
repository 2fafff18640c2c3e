"""Matching heads by inner products: what each pair could reach with its best inner maps.

Once the residual maps are known, the objective itself says which heads belong together: for every
pair of heads the maps inside them are matched (small assignments), and the values reached are the
similarity of one assignment of heads. Used to correct spectral matching where that raises the
objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.assignment import best_permutation
from graphrebase.align.evidence import Evidence, Maps
from graphrebase.align.maps import IndexArray

Inner = dict[str, IndexArray]
RELATIVE_GAIN = 1e-7
"""Gains below this share of the values compared are float32 rounding, not progress."""


@dataclass(frozen=True, slots=True)
class _Term:
    """One weight seen from its head axis.

    Attributes:
        children: the spaces inside a head that the weight has, in axis order.
        values: float (h, h, n1, .., nk, n1, .., nk): for B's head j and A's head i the inner
            product of every inner index of B with every one of A.
    """

    children: tuple[str, ...]
    values: NDArray[Any]


def rematch(evidence: Evidence, maps: Maps, head: str, units: Mapping[str, str]) -> float:
    """Re-match one head space and the maps inside it; keep the result if it is better.

    Args:
        evidence: the pair.
        maps: changed in place if the objective rises.
        head: the head space.
        units: space to the name of the unit it is solved with (equal names: one map); spaces
            that are not in it stay as they are.

    Returns:
        The gain of the objective, 0.0 if nothing changed.
    """
    problem = evidence.problem
    if head in problem.fixed or any(
        problem.weights[i].axes.count(head) > 1 for i in evidence.touching[head]
    ):
        return 0.0
    terms = [_term(evidence, maps, head, index) for index in evidence.touching[head]]
    inside = [space.name for space in problem.children(head)]
    free = [name for name in inside if name in units]
    rows = range(problem.spaces[head].size)
    value = np.empty((len(rows), len(rows)))
    solved: dict[tuple[int, int], Inner] = {}
    old = 0.0
    for j in rows:
        start = {name: maps[name][j] for name in inside}
        old += _value([(term, term.values[j, maps[head][j]]) for term in terms], start)
        for i in rows:
            value[j, i], solved[j, i] = _solve_pair(terms, j, i, start, free, units)
    best = best_permutation(value)
    gain = float(value[rows, best].sum()) - old
    if gain <= RELATIVE_GAIN * max(abs(old), abs(old + gain)):
        return 0.0
    maps.set(head, best)
    for name in free:
        maps.set(name, np.stack([solved[j, int(best[j])][name] for j in rows]))
    return gain


def _term(evidence: Evidence, maps: Maps, head: str, index: int) -> _Term:
    weight = evidence.problem.weights[index]
    spaces = evidence.problem.spaces
    inside = [p for p, axis in enumerate(weight.axes) if axis and spaces[axis].over == head]
    front = [weight.axes.index(head), *inside]
    a = evidence.transported(index, maps.arrays(), *front)
    b = evidence.pair(index)[1]
    xp = evidence.backend.xp
    a, b = (xp.moveaxis(x, front, range(len(front))) for x in (a, b))
    lead = a.shape[: len(front)]
    size = int(np.prod(lead))
    product = evidence.backend.to_numpy(xp.matmul(b.reshape(size, -1), a.reshape(size, -1).T))
    inner = tuple(range(1, len(lead)))
    order = (0, len(lead), *inner, *(len(lead) + k for k in inner))
    values = product.reshape(*lead, *lead).transpose(order)
    return _Term(tuple(weight.axes[p] or "" for p in inside), values)


def _solve_pair(
    terms: list[_Term], j: int, i: int, start: Inner, free: list[str], units: Mapping[str, str]
) -> tuple[float, Inner]:
    """Return the value two heads reach and the inner maps, from `start`, two rounds at most."""
    maps = dict(start)
    views = [(term, term.values[j, i]) for term in terms]
    groups: dict[str, list[str]] = {}
    for name in free:
        groups.setdefault(units[name], []).append(name)
    bilinear = any(len(term.children) > 1 for term in terms)
    for _ in range(2 if bilinear else 1):
        for names in groups.values():
            similarity = sum(
                _reduced(term, values, name, maps)
                for name in names
                for term, values in views
                if name in term.children
            )
            if isinstance(similarity, np.ndarray):
                chosen = best_permutation(similarity)
                maps.update(dict.fromkeys(names, chosen))
    return _value(views, maps), maps


def _reduced(term: _Term, values: NDArray[Any], name: str, maps: Inner) -> NDArray[np.float64]:
    """Return the (n, n) similarity of one child, the others of the term taken as mapped."""
    wide = values.astype(np.float64)
    children = list(term.children)
    for other in term.children:
        if other == name:
            continue
        position = children.index(other)
        wide = np.moveaxis(wide, (position, len(children) + position), (0, 1))
        wide = wide[np.arange(len(wide)), maps[other]].sum(axis=0)
        children.remove(other)
    return wide


def _value(views: list[tuple[_Term, NDArray[Any]]], maps: Inner) -> float:
    """Return the inner product two heads have under the given inner maps."""
    total = 0.0
    for term, values in views:
        if not term.children:
            total += float(values)
            continue
        last = term.children[-1]
        table = _reduced(term, values, last, maps)
        total += float(table[np.arange(len(table)), maps[last]].sum())
    return total
