"""What the weights say: <B, T A> of each weight, and similarity matrices of each space.

The only place that holds the weights of a pair in memory: each is loaded once, as float32 (an
array that is float32 already stays a view of its file). Matrix products run in float32 on the
chosen backend; sums that decide an assignment, and objectives, are accumulated in float64.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.action import permute_axes
from graphrebase.align.maps import IndexArray
from graphrebase.align.problem import AlignmentProblem, Loader, Weight, check_shape
from graphrebase.backend import Backend, select
from graphrebase.errors import MismatchError, VerificationError

CHUNK: Final = 1 << 22
"""Elements multiplied at a time when an inner product is accumulated in float64."""
CACHE_BYTES: Final = 1 << 30
"""Memory for similarity contributions that did not change since they were computed."""

_stamps = itertools.count()


class Maps:
    """The current map of every space, each with a stamp that is new whenever it changes."""

    def __init__(self, maps: Mapping[str, IndexArray]) -> None:
        """Take the maps; later changes go through `set`."""
        self._maps = dict(maps)
        self._stamp = {name: next(_stamps) for name in self._maps}

    def __getitem__(self, name: str) -> IndexArray:
        """Return one map."""
        return self._maps[name]

    def set(self, name: str, value: IndexArray) -> None:
        """Replace one map."""
        self._maps[name] = value
        self._stamp[name] = next(_stamps)

    def stamp(self, names: Collection[str]) -> tuple[int, ...]:
        """Return what changes exactly when one of these maps does."""
        return tuple(self._stamp[name] for name in names)

    def arrays(self) -> Mapping[str, IndexArray]:
        """Return all maps by name (a live view)."""
        return self._maps

    def copy(self) -> Maps:
        """Return an independent copy, equal maps keeping equal stamps."""
        twin = Maps({})
        twin._maps, twin._stamp = dict(self._maps), dict(self._stamp)
        return twin


class Evidence:
    """The weights of a pair and the similarities they give, computed once per state."""

    def __init__(
        self,
        problem: AlignmentProblem,
        backend: Backend | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Prepare; weights load when first needed."""
        self.problem = problem
        self.backend = backend or select("cpu")
        self._pairs: dict[int, tuple[Any, Any]] = {}
        self._inner: dict[int, tuple[tuple[int, ...], float]] = {}
        self._cache: OrderedDict[tuple[int, str], tuple[tuple[int, ...], Any]] = OrderedDict()
        self._cache_left = cache_bytes
        self.touching: dict[str, tuple[int, ...]] = {
            name: tuple(i for i, w in enumerate(problem.weights) if name in w.axes)
            for name in problem.spaces
        }
        self.movable = tuple(i for i, weight in enumerate(problem.weights) if weight.spaces)

    def pair(self, index: int) -> tuple[Any, Any]:
        """Return A's and B's array of a weight, float32 on the backend.

        Raises:
            MismatchError: the shapes do not fit the axes or each other.
            VerificationError: a value is not finite.
        """
        if index not in self._pairs:
            weight = self.problem.weights[index]
            a, b = self._load(weight, weight.a, "A"), self._load(weight, weight.b, "B")
            if a.shape != b.shape:
                raise MismatchError(
                    f"A has shape {a.shape}, B has {b.shape}",
                    where=weight.role,
                    hint="TransFusion needs A and B of one architecture and one size",
                )
            self._pairs[index] = (a, b)
        return self._pairs[index]

    def _load(self, weight: Weight, loader: Loader, model: str) -> Any:
        array = np.asarray(loader())
        check_shape(weight, array.shape, self.problem.spaces)
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise VerificationError(
                f"model {model} has values that are not finite in float32",
                where=weight.role,
                hint="a NaN or infinite weight cannot be aligned; repair or re-export the model",
            )
        return self.backend.xp.asarray(array)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the canonical shape of a weight."""
        return tuple(self.pair(index)[0].shape)

    def transported(self, index: int, maps: Mapping[str, IndexArray], *skip: int) -> Any:
        """Return A's array in B's order along every axis but the positions in `skip`."""
        axes = self.problem.weights[index].axes
        a = self.pair(index)[0]
        return permute_axes(a, axes, maps, self.problem.spaces, self.backend.xp, skip=skip)

    def inner(self, index: int, maps: Mapping[str, IndexArray]) -> float:
        """Return <B, T A> of one weight, in float64."""
        return self._dot(self.pair(index)[1], self.transported(index, maps))

    def norms(self, index: int) -> float:
        """Return ||A|| ||B|| of one weight."""
        a, b = self.pair(index)
        return float(np.sqrt(self._dot(a, a) * self._dot(b, b)))

    def equal(self) -> bool:
        """Return whether A and B have equal values everywhere."""
        pairs = (self.pair(index) for index in range(len(self.problem.weights)))
        return all(bool((a == b).all()) for a, b in pairs)

    def _dot(self, x: Any, y: Any) -> float:
        x, y = x.reshape(-1), y.reshape(-1)
        wide = self.backend.xp.float64
        parts = (
            float((x[start : start + CHUNK].astype(wide) * y[start : start + CHUNK]).sum())
            for start in range(0, x.size, CHUNK)
        )
        return sum(parts)

    def objective(self, maps: Maps) -> float:
        """Return the sum of <B, T A> over all movable weights; only changed ones are computed."""
        return sum(self._cached_inner(index, maps) for index in self.movable)

    def local_objective(self, names: Collection[str], maps: Maps) -> float:
        """Return the sum of <B, T A> over the weights that have one of these spaces."""
        touched = sorted({index for name in names for index in self.touching[name]})
        return sum(self._cached_inner(index, maps) for index in touched)

    def _cached_inner(self, index: int, maps: Maps) -> float:
        stamp = maps.stamp(self.problem.weights[index].spaces)
        known = self._inner.get(index)
        if known is None or known[0] != stamp:
            known = (stamp, self.inner(index, maps.arrays()))
            self._inner[index] = known
        return known[1]

    def neighbours(self, name: str) -> tuple[str, ...]:
        """Return the spaces that share a weight with this one."""
        weights = (self.problem.weights[index] for index in self.touching[name])
        names = dict.fromkeys(space for weight in weights for space in weight.spaces)
        names.pop(name, None)
        return tuple(names)

    def similarity(
        self, name: str, maps: Maps, among: Collection[int] | None = None
    ) -> NDArray[np.float64]:
        """Return how well each index of A fits each index of B, everything else as mapped.

        Args:
            name: the space.
            maps: the current maps; the space's own is not used (unless a weight has it twice).
            among: the weights to count, or None for all.

        Returns:
            float64 (count, size, size), rows B, columns A:
            S[j, r, s] = sum over weights of <B[.., j, r, ..], (T' A)[.., j, s, ..]>.
        """
        space = self.problem.spaces[name]
        total = np.zeros((space.count, space.size, space.size))
        for index in self.touching[name]:
            if among is None or index in among:
                total += self.backend.to_numpy(self._contribution(index, name, maps))
        return total

    def _contribution(self, index: int, name: str, maps: Maps) -> Any:
        """Return one weight's share of `similarity`, float32, from the cache if it still holds."""
        weight = self.problem.weights[index]
        twice = weight.axes.count(name) > 1
        stamp = maps.stamp([n for n in weight.spaces if twice or n != name])
        known = self._cache.get((index, name))
        if known is not None and known[0] == stamp:
            self._cache.move_to_end((index, name))
            return known[1]
        positions = [p for p, axis in enumerate(weight.axes) if axis == name]
        value = sum(self._product(index, p, maps) for p in positions)
        self._remember((index, name), stamp, value)
        return value

    def _remember(self, key: tuple[int, str], stamp: tuple[int, ...], value: Any) -> None:
        if key in self._cache:
            self._cache_left += self._cache.pop(key)[1].nbytes
        self._cache[key] = (stamp, value)
        self._cache_left -= value.nbytes
        while self._cache_left < 0 and self._cache:
            self._cache_left += self._cache.popitem(last=False)[1][1].nbytes

    def _product(self, index: int, position: int, maps: Maps) -> Any:
        """Return B X^T over all axes but `position` (and the head axis it hangs on)."""
        weight = self.problem.weights[index]
        space = self.problem.spaces[weight.axes[position] or ""]
        front = [position]
        if space.over is not None:
            front.insert(0, weight.axes.index(space.over))
        xp = self.backend.xp
        b = self.pair(index)[1]
        a = self.transported(index, maps.arrays(), position)
        shape = (space.count, space.size, -1)
        b = xp.moveaxis(b, front, range(len(front))).reshape(shape)
        a = xp.moveaxis(a, front, range(len(front))).reshape(shape)
        return xp.matmul(b, a.swapaxes(1, 2))

    def shuffled(self, seed: int) -> Evidence:
        """Return the same evidence with the entries of each of A's weights shuffled (a null)."""
        weights = tuple(
            replace(weight, a=self._shuffler(index, seed))
            for index, weight in enumerate(self.problem.weights)
        )
        return Evidence(replace(self.problem, weights=weights), self.backend)

    def _shuffler(self, index: int, seed: int) -> Loader:
        def load() -> NDArray[Any]:
            a = self.backend.to_numpy(self.pair(index)[0])
            mixed = np.random.default_rng([seed, index]).permutation(a.reshape(-1))
            return mixed.reshape(a.shape)

        return load
