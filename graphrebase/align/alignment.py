"""Alignments: one map per space from A's order to B's, how they combine and how they act."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.problem import Axes, Space
from graphrebase.errors import MismatchError

IndexArray = NDArray[np.int64]
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
    """One index map per space, read as x_B = x_A[map].

    Attributes:
        maps: flat space: int64 (size,). Space over a head space: int64 (count, size); B's head
            j takes inner index `map[j, r]` of A's head `head_map[j]`.
        method: the method that found it.
        options: that method's options.
        sha256_a: content hash of model A (empty if unknown).
        sha256_b: content hash of model B (empty if unknown).
        details: what the run measured, if it did.
    """

    maps: Mapping[str, IndexArray]
    method: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    sha256_a: str = ""
    sha256_b: str = ""
    details: Details | None = None


def identity_maps(spaces: Mapping[str, Space]) -> dict[str, IndexArray]:
    """Return the map of each space that changes nothing."""
    return {
        name: np.broadcast_to(np.arange(space.size), space.map_shape).astype(np.int64)
        for name, space in spaces.items()
    }


def random_maps(
    spaces: Mapping[str, Space],
    rng: np.random.Generator,
    *,
    fixed: Container[str] = frozenset(),
    intra: str = "split",
) -> dict[str, IndexArray]:
    """Return a uniformly random element of every group; `fixed` spaces keep the identity.

    With `intra="paper"` the two inner maps of a head are one.
    """
    maps = identity_maps(spaces)
    for name in spaces:
        if name not in fixed:
            maps[name] = rng.permuted(maps[name], axis=-1)
    if intra == "paper":
        for query_key, value_output in intra_partners(spaces).items():
            if query_key not in fixed and value_output not in fixed:
                maps[value_output] = maps[query_key]
    return maps


def intra_partners(spaces: Mapping[str, Space]) -> dict[str, str]:
    """Return head_qk to head_vo space names of one block, where both exist and agree in size."""
    partners = {}
    for name, space in spaces.items():
        partner = spaces.get(name.removesuffix("head_qk") + "head_vo")
        if space.kind != "head_qk" or partner is None:
            continue
        if (partner.over, partner.map_shape) == (space.over, space.map_shape):
            partners[name] = partner.name
    return partners


def identity(spaces: Mapping[str, Space]) -> Alignment:
    """Return the alignment that changes nothing."""
    return Alignment(identity_maps(spaces), "identity")


def random_alignment(spaces: Mapping[str, Space], seed: int = 0) -> Alignment:
    """Return a uniformly random alignment, the same for the same seed."""
    maps = random_maps(spaces, np.random.default_rng(seed))
    return Alignment(maps, "random", {"seed": seed})


def inverse(alignment: Alignment, spaces: Mapping[str, Space]) -> Alignment:
    """Return the alignment that undoes this one (B's order back to A's)."""
    check_fits(alignment, spaces)
    maps = {}
    for name, space in spaces.items():
        back = np.argsort(alignment.maps[name], axis=-1)
        if space.over is not None:
            back = back[np.argsort(alignment.maps[space.over])]
        maps[name] = back.astype(np.int64)
    return Alignment(
        maps, alignment.method, alignment.options, alignment.sha256_b, alignment.sha256_a
    )


def compose(second: Alignment, first: Alignment, spaces: Mapping[str, Space]) -> Alignment:
    """Return `first` (A to B) followed by `second` (B to C).

    With heads H and inner maps m: C[j, r] = B[H2[j], m2[j, r]] = A[H1[H2[j]], m1[H2[j], m2[j, r]]].
    """
    check_fits(first, spaces)
    check_fits(second, spaces)
    maps = {}
    for name, space in spaces.items():
        inner, outer = first.maps[name], second.maps[name]
        if space.over is not None:
            inner = inner[second.maps[space.over]]
        maps[name] = np.take_along_axis(inner, outer, axis=-1)
    method = f"{first.method}+{second.method}"
    return Alignment(maps, method, {}, first.sha256_a, second.sha256_b)


def identity_share(alignment: Alignment) -> float:
    """Return the share of all indices that stay in place (1.0 for the identity)."""
    total = sum(m.size for m in alignment.maps.values())
    kept = sum(int(np.sum(m == np.arange(m.shape[-1]))) for m in alignment.maps.values())
    return kept / total if total else 1.0


def is_identity(alignment: Alignment) -> bool:
    """Return whether the alignment changes nothing."""
    return all(bool(np.all(m == np.arange(m.shape[-1]))) for m in alignment.maps.values())


def is_permutation(index: NDArray[Any]) -> bool:
    """Return whether each row of a (.., n) int64 array holds every index below n once."""
    if index.dtype != np.int64 or index.ndim not in (1, 2) or index.size == 0:
        return False
    return bool(np.all(np.sort(index, axis=-1) == np.arange(index.shape[-1])))


def check_fits(alignment: Alignment, spaces: Mapping[str, Space]) -> None:
    """Check that the alignment has one permutation of the right shape for every space.

    Raises:
        MismatchError: a map is missing, of another shape, not a permutation, or superfluous.
    """
    hint = "this alignment belongs to another pair of models; compute it again with `align`"
    if odd := set(spaces) ^ set(alignment.maps):
        raise MismatchError(
            f"alignment and models disagree on the spaces {', '.join(sorted(odd)[:5])}", hint=hint
        )
    for name, space in spaces.items():
        found = alignment.maps[name]
        if found.shape != space.map_shape:
            raise MismatchError(
                f"map of shape {found.shape} where {space.map_shape} is needed",
                where=name,
                hint=hint,
            )
        if not is_permutation(found):
            raise MismatchError("map is not an int64 permutation", where=name, hint=hint)


def transport(
    array: NDArray[Any], axes: Axes, alignment: Alignment, spaces: Mapping[str, Space]
) -> NDArray[Any]:
    """Move an array of A, in canonical shape, to B's order.

    Args:
        array: any dtype, one axis per entry of `axes`.
        axes: space name per axis, None for axes that stay.
        alignment: the maps.
        spaces: the problem's spaces.

    Returns:
        A new array; for a query projection out[j, m, r, :] is
        array[head[j], member[j, m], qk[j, r], :].

    Raises:
        MismatchError: a space is unknown or has no map, or the array does not fit.
    """
    if array.ndim != len(axes):
        raise MismatchError(f"array of shape {array.shape} has not the axes {axes}")
    for length, axis in zip(array.shape, axes, strict=True):
        if axis is None:
            continue
        if axis not in spaces or axis not in alignment.maps:
            raise MismatchError("the alignment has no map for this space", where=axis)
        if length != spaces[axis].size:
            raise MismatchError(f"axis of length {length} in a space of another size", where=axis)
    moved: NDArray[Any] = permute_axes(array, axes, alignment.maps, spaces, np)
    return moved


def permute_axes(
    array: Any,
    axes: Axes,
    maps: Mapping[str, IndexArray],
    spaces: Mapping[str, Space],
    xp: Any,
    *,
    skip: Container[int] = (),
) -> Any:
    """Apply the maps along every axis but those in `skip` (positions); xp is numpy or cupy.

    Heads move first: the inner maps are indexed by B's heads.
    """
    positions = [p for p, axis in enumerate(axes) if axis is not None and p not in skip]
    positions.sort(key=lambda p: spaces[axes[p] or ""].over is not None)
    for position in positions:
        space = spaces[axes[position] or ""]
        index = xp.asarray(maps[space.name])
        if space.over is None:
            array = xp.take(array, index, axis=position)
            continue
        head = axes.index(space.over)
        shape = [1] * array.ndim
        shape[head], shape[position] = space.count, space.size
        index = (index if head < position else index.T).reshape(shape)
        array = xp.take_along_axis(array, index, axis=position)
    return array
