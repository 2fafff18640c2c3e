"""Alignments: one map per space from A's order to B's, and how they combine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphrebase.align.maps import (
    MapArray,
    as_matrix,
    identity_maps,
    inverse_map,
    is_linear,
    is_matrix,
    is_permutation,
    random_maps,
    stays,
)
from graphrebase.align.problem import Space
from graphrebase.errors import MismatchError

OptionValue = str | int | float


@dataclass(frozen=True, slots=True)
class Details:
    """What a run measured; every number is a sum or ratio of inner products <B, T A>.

    Attributes:
        objective: sum over weights of <B, T A>.
        ceiling: sum of the products of norms, which the objective cannot exceed.
        sweeps: coordinate-ascent sweeps of the kept start.
        start: the start that was kept.
        null_mean: mean objective under random alignments.
        null_std: its standard deviation.
        score: (objective - null_mean) / (ceiling - null_mean); 1 for a perfect match.
        z: (objective - null_mean) / null_std. Large for any optimised alignment, even of
            unrelated models: see `beyond_chance`.
        beyond_chance: the same ratio as `score` with the objective that the same method reaches
            on shuffled weights as zero; about 0 for unrelated models; None if not measured.
        space_scores: `score` over the weights that touch each space.
        space_z: `z` over the weights that touch each space.
        lineage: `identical`, `same lineage`, `permuted` (B is A in another order) or
            `independent`.
        identity_cosine: median over weights of the cosine of A and B as they are, minus its
            mean under random alignments.
        identity_z: that median in standard deviations of the same under random alignments.
    """

    objective: float
    ceiling: float
    sweeps: int
    start: str
    null_mean: float
    null_std: float
    score: float
    z: float
    beyond_chance: float | None
    space_scores: Mapping[str, float]
    space_z: Mapping[str, float]
    lineage: str
    identity_cosine: float
    identity_z: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """One map per space, read as x_B = T x_A.

    Attributes:
        maps: a permutation is int64, x_B = x_A[map]; flat space: (size,); space over a head
            space: (count, size), where B's head j takes inner index `map[j, r]` of A's head
            `head_map[j]`. Any other map is float64: (size, size) or (count, size, size), where
            `map[j]` takes A's head `head_map[j]` to B's head j; a diagonal is (size,).
        method: the method that found it.
        options: that method's options.
        sha256_a: content hash of model A (empty if unknown).
        sha256_b: content hash of model B (empty if unknown).
        details: what the run measured, if it did.
    """

    maps: Mapping[str, MapArray]
    method: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    sha256_a: str = ""
    sha256_b: str = ""
    details: Details | None = None


def identity(spaces: Mapping[str, Space]) -> Alignment:
    """Return the alignment that changes nothing."""
    return Alignment(identity_maps(spaces), "identity")


def random_alignment(spaces: Mapping[str, Space], seed: int = 0) -> Alignment:
    """Return a uniformly random alignment, the same for the same seed."""
    maps = random_maps(spaces, np.random.default_rng(seed))
    return Alignment(maps, "random", {"seed": seed})


def inverse(alignment: Alignment, spaces: Mapping[str, Space]) -> Alignment:
    """Return the alignment that undoes this one (B's basis back to A's)."""
    check_fits(alignment, spaces)
    maps: dict[str, MapArray] = {}
    for name, space in spaces.items():
        back = inverse_map(alignment.maps[name])
        if space.over is not None:
            back = back[np.argsort(alignment.maps[space.over])]
        maps[name] = back
    return Alignment(
        maps, alignment.method, alignment.options, alignment.sha256_b, alignment.sha256_a
    )


def compose(second: Alignment, first: Alignment, spaces: Mapping[str, Space]) -> Alignment:
    """Return `first` (A to B) followed by `second` (B to C).

    With heads H and inner maps m: C[j, r] = B[H2[j], m2[j, r]] = A[H1[H2[j]], m1[H2[j], m2[j, r]]].
    """
    check_fits(first, spaces)
    check_fits(second, spaces)
    maps: dict[str, MapArray] = {}
    for name, space in spaces.items():
        inner, outer = first.maps[name], second.maps[name]
        if space.over is not None:
            inner = inner[second.maps[space.over]]
        if is_matrix(inner) or is_matrix(outer):
            maps[name] = as_matrix(outer) @ as_matrix(inner)
        else:
            maps[name] = np.take_along_axis(inner, outer, axis=-1)
    method = f"{first.method}+{second.method}"
    return Alignment(maps, method, {}, first.sha256_a, second.sha256_b)


def identity_share(alignment: Alignment) -> float:
    """Return the share of all indices that stay in place (1.0 for the identity).

    Under a matrix an index stays where it goes to itself and nothing else does.
    """
    kept = [stays(found) for found in alignment.maps.values()]
    total = sum(part.size for part in kept)
    return sum(int(part.sum()) for part in kept) / total if total else 1.0


def is_identity(alignment: Alignment) -> bool:
    """Return whether the alignment changes nothing."""
    return all(bool(np.all(stays(found))) for found in alignment.maps.values())


def check_fits(alignment: Alignment, spaces: Mapping[str, Space]) -> None:
    """Check that the alignment has one map of the right shape for every space.

    Raises:
        MismatchError: a map is missing, of another shape, not a map, or superfluous.
    """
    hint = "this alignment belongs to another pair of models; compute it again with `align`"
    if odd := set(spaces) ^ set(alignment.maps):
        raise MismatchError(
            f"alignment and models disagree on the spaces {', '.join(sorted(odd)[:5])}", hint=hint
        )
    for name, space in spaces.items():
        found = alignment.maps[name]
        wanted = space.map_shape
        if is_matrix(found) and found.ndim > len(wanted):
            wanted = (*wanted, space.size)
        if found.shape != wanted:
            raise MismatchError(
                f"map of shape {found.shape} where {wanted} is needed",
                where=name,
                hint=hint,
            )
        if not (is_linear(found) if is_matrix(found) else is_permutation(found)):
            raise MismatchError(
                "map is neither an int64 permutation nor float64 and finite", where=name, hint=hint
            )
