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
MapArray = NDArray[Any]
"""A map: int64 indices, or a float64 matrix (n_B, n_A), or float64 factors (n,) of a diagonal."""
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


def is_matrix(found: MapArray) -> bool:
    """Return whether a map is a matrix (or the factors of a diagonal), not an index vector."""
    return found.dtype.kind == "f"


def as_matrix(found: MapArray) -> NDArray[np.float64]:
    """Return any map as matrices, float64 (.., n, n)."""
    if not is_matrix(found):
        return np.asarray(np.eye(found.shape[-1])[found])
    return np.diag(found) if found.ndim == 1 else found


def inverse(alignment: Alignment, spaces: Mapping[str, Space]) -> Alignment:
    """Return the alignment that undoes this one (B's basis back to A's)."""
    check_fits(alignment, spaces)
    maps: dict[str, MapArray] = {}
    for name, space in spaces.items():
        back = _inverse_map(alignment.maps[name])
        if space.over is not None:
            back = back[np.argsort(alignment.maps[space.over])]
        maps[name] = back
    return Alignment(
        maps, alignment.method, alignment.options, alignment.sha256_b, alignment.sha256_a
    )


def _inverse_map(found: MapArray) -> MapArray:
    if not is_matrix(found):
        return np.argsort(found, axis=-1).astype(np.int64)
    return 1.0 / found if found.ndim == 1 else np.asarray(np.linalg.inv(found))


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
    kept = [_stays(found) for found in alignment.maps.values()]
    total = sum(stays.size for stays in kept)
    return sum(int(stays.sum()) for stays in kept) / total if total else 1.0


def is_identity(alignment: Alignment) -> bool:
    """Return whether the alignment changes nothing."""
    return all(bool(np.all(_stays(found))) for found in alignment.maps.values())


def _stays(found: MapArray) -> NDArray[np.bool_]:
    if not is_matrix(found):
        return np.asarray(found == np.arange(found.shape[-1]))
    if found.ndim == 1:
        return np.asarray(found == 1.0)
    return np.asarray(np.abs(found - np.eye(*found.shape[-2:])).max(axis=-1) < 1e-9)


def is_linear(found: MapArray) -> bool:
    """Return whether an array may be a matrix map.

    Finite float64: (n,) without zeros, (n, n) or (k, n, n).
    """
    square = found.ndim == 1 or (found.ndim in (2, 3) and found.shape[-1] == found.shape[-2])
    if found.dtype != np.float64 or not found.size or not square:
        return False
    return bool(np.isfinite(found).all() and (found.ndim > 1 or found.all()))


def is_permutation(index: NDArray[Any]) -> bool:
    """Return whether each row of a (.., n) int64 array holds every index below n once."""
    if index.dtype != np.int64 or index.ndim not in (1, 2) or index.size == 0:
        return False
    return bool(np.all(np.sort(index, axis=-1) == np.arange(index.shape[-1])))


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


def transport(
    array: NDArray[Any],
    axes: Axes,
    alignment: Alignment,
    spaces: Mapping[str, Space],
    *,
    dual: Container[int] = (),
) -> NDArray[Any]:
    """Move an array of A, in canonical shape, to B's basis.

    Args:
        array: any dtype, one axis per entry of `axes`.
        axes: space name per axis, None for axes that stay.
        alignment: the maps.
        spaces: the problem's spaces.
        dual: positions of axes that transform by T^-T (the input side of a weight); the same as
            T for permutations and rotations, also between different widths.

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
        if length != _old_size(alignment.maps[axis], spaces[axis]):
            raise MismatchError(f"axis of length {length} in a space of another size", where=axis)
    linear = [p for p, a in enumerate(axes) if a is not None and is_matrix(alignment.maps[a])]
    moved: NDArray[Any] = permute_axes(array, axes, alignment.maps, spaces, np, skip=linear)
    for position in linear:
        space = spaces[axes[position] or ""]
        head = None if space.over is None else axes.index(space.over)
        moved = _multiply(moved, position, head, alignment.maps[space.name], position in dual)
    return moved


def _old_size(found: MapArray, space: Space) -> int:
    """Return the length of an axis of A that a map moves: that of B's, unless it is rectangular."""
    return found.shape[-1] if is_matrix(found) and found.ndim > 1 else space.size


def _multiply(
    array: NDArray[Any], position: int, head: int | None, matrix: MapArray, dual: bool
) -> NDArray[Any]:
    """Multiply one axis by a matrix (per index of the head axis), or by its inverse transpose."""
    if matrix.ndim == 1:
        factors = 1.0 / matrix if dual else matrix
        shape = [-1 if p == position else 1 for p in range(array.ndim)]
        return np.asarray(array * factors.reshape(shape))
    if dual:
        square = matrix.shape[-1] == matrix.shape[-2]
        matrix = (np.linalg.inv(matrix) if square else np.linalg.pinv(matrix)).swapaxes(-1, -2)
    if head is None:
        product = np.tensordot(matrix, array, axes=(-1, position))
        return np.asarray(np.moveaxis(product, 0, position))
    front = np.moveaxis(array, (head, position), (0, 1))
    moved = matrix @ front.reshape(*front.shape[:2], -1)
    return np.asarray(np.moveaxis(moved.reshape(front.shape), (0, 1), (head, position)))


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
