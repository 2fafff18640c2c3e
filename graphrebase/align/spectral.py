"""Matching heads by singular values, which no permutation of any other space can change.

The distance of head i of A and head j of B is the sum, over the weights that have a head axis, of
the norm of the difference of their slices' singular values (TransFusion, section on inter-head
matching; W_o is counted too, as in the official code). With grouped queries the members of two
groups are matched first, and the group distance counts the matched members. A head space shared
by several blocks (ALBERT, a shared bias table) adds the distances of all of them.

The costs do not depend on any map, so they are computed once. Cost: one d x d Gram matrix and
eigenvalue problem per slice, in float64.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.assignment import best_permutation
from graphrebase.align.evidence import Evidence
from graphrebase.align.maps import IndexArray
from graphrebase.align.problem import Weight

FloatArray = NDArray[np.float64]
BIAS_SUFFIXES = ("_bias", ".bias")


def singular_values(matrices: NDArray[Any]) -> FloatArray:
    """Return the singular values (.., min(m, n)) of (.., m, n), ascending, by Gram matrices.

    Float64; the relative error is about 1e-14 for values near the largest.
    """
    x = np.asarray(matrices, dtype=np.float64)
    y = np.swapaxes(x, -1, -2)
    gram = x @ y if x.shape[-2] <= x.shape[-1] else y @ x
    return np.asarray(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0.0, None)), dtype=np.float64)


def match_heads(evidence: Evidence, *, with_bias: bool = True) -> dict[str, IndexArray]:
    """Return maps for every head space that is not fixed, and for the query heads inside them.

    Args:
        evidence: the pair.
        with_bias: count a bias as one more column of its matrix.
    """
    problem = evidence.problem
    maps: dict[str, IndexArray] = {}
    for space in problem.ordered_spaces():
        if is_head(evidence, space.name):
            maps.update(_match_one(evidence, space.name, with_bias))
    return {name: value for name, value in maps.items() if name not in problem.fixed}


def is_head(evidence: Evidence, name: str) -> bool:
    """Return whether a space is one of heads: by kind, or because other maps hang on it."""
    problem = evidence.problem
    return problem.spaces[name].kind == "head" or bool(problem.children(name))


def _match_one(evidence: Evidence, head: str, with_bias: bool) -> dict[str, IndexArray]:
    cost, members = head_costs(evidence, head, with_bias=with_bias)
    fixed = head in evidence.problem.fixed
    n = len(cost)
    head_map = np.arange(n) if fixed else best_permutation(-cost)
    maps = {head: head_map}
    for name, table in members.items():
        maps[name] = table[np.arange(n), head_map]
    return maps


def head_costs(
    evidence: Evidence, head: str, *, with_bias: bool = True
) -> tuple[FloatArray, dict[str, IndexArray]]:
    """Return the distance of every pair of heads, and how their members match.

    Returns:
        The cost (h, h), rows B's heads and columns A's, and per member space an int64
        (h, h, g): the best map of members for each pair of heads.
    """
    problem = evidence.problem
    size = problem.spaces[head].size
    cost = np.zeros((size, size))
    inner: dict[str, FloatArray] = defaultdict(lambda: np.zeros(()))
    biases = _biases(problem.weights)
    for index in evidence.touching[head]:
        if index in biases.values():
            continue
        weight = problem.weights[index]
        member = next((n for n in weight.spaces if _is_member(evidence, n, head)), None)
        bias = biases.get(index) if with_bias else None
        spectra = [_spectra(evidence, index, bias, side, head, member) for side in (0, 1)]
        if member is None:
            cost += _distances(spectra[1], spectra[0])
        else:
            inner[member] = inner[member] + _member_distances(spectra[1], spectra[0])
    members = {}
    for name, distances in inner.items():
        members[name] = _best_members(distances)
        taken = np.take_along_axis(distances, members[name][..., None], axis=-1)
        cost += taken.sum(axis=(-1, -2))
    return cost, members


def _is_member(evidence: Evidence, name: str, head: str) -> bool:
    space = evidence.problem.spaces[name]
    return space.over == head and space.kind == "head_member"


def _biases(weights: tuple[Weight, ...]) -> dict[int, int]:
    """Return index of a matrix to index of its bias, by role and by axes."""
    by_role = {weight.role: index for index, weight in enumerate(weights)}
    found = {}
    for index, weight in enumerate(weights):
        stem = weight.role.removesuffix(".weight").removesuffix("_weight")
        for role in {name + suffix for name in (stem, weight.role) for suffix in BIAS_SUFFIXES}:
            if role in by_role and _column_axis(weight, weights[by_role[role]]) is not None:
                found[index] = by_role[role]
    return found


def _column_axis(weight: Weight, bias: Weight) -> int | None:
    """Return the axis of the matrix that its bias lacks, if they differ in just that."""
    for position in range(len(weight.axes)):
        if weight.axes[:position] + weight.axes[position + 1 :] == bias.axes:
            return position
    return None


def _spectra(
    evidence: Evidence, index: int, bias: int | None, side: int, head: str, member: str | None
) -> FloatArray:
    """Return the invariant of each head's slice: (h, k), or (h, g, k) with members."""
    weight = evidence.problem.weights[index]
    array = evidence.backend.to_numpy(evidence.pair(index)[side])
    column = array.ndim - 1
    if bias is not None:
        column = _column_axis(weight, evidence.problem.weights[bias]) or 0
        extra = evidence.backend.to_numpy(evidence.pair(bias)[side])
        array = np.concatenate([array, np.expand_dims(extra, column)], axis=column)
    front = [weight.axes.index(head)]
    if member is not None:
        front.append(weight.axes.index(member))
    lead = len(front)
    order = front + [p for p in range(array.ndim) if p not in front and p != column]
    anchored = all(weight.axes[p] is None for p in range(array.ndim) if p not in front)
    order += [column] if column not in front else []
    array = np.transpose(array, order)
    shape = array.shape[:lead]
    if anchored:  # nothing inside a slice moves: the slice itself is the invariant
        return array.reshape(*shape, -1).astype(np.float64)
    if array.ndim == lead + 1:  # a vector over a movable axis: its sorted values
        return np.sort(array, axis=-1).astype(np.float64)
    return singular_values(array.reshape(*shape, -1, array.shape[-1]))


def _distances(b: FloatArray, a: FloatArray) -> FloatArray:
    """Return the Euclidean distances of (.., n, k) and (.., m, k), as (.., n, m)."""
    distances: FloatArray = np.linalg.norm(b[..., :, None, :] - a[..., None, :, :], axis=-1)
    return distances


def _member_distances(b: FloatArray, a: FloatArray) -> FloatArray:
    """Return distances (h, h, g, g) of the members of every pair of heads, (h, g, k) each."""
    return _distances(b[:, None], a[None, :])


def _best_members(distances: FloatArray) -> IndexArray:
    """Return the cheapest member map (h, h, g) of every pair of heads."""
    pairs = distances.shape[:2]
    maps = [[best_permutation(-distances[j, i]) for i in range(pairs[1])] for j in range(pairs[0])]
    return np.array(maps, dtype=np.int64)
