"""The alignment problem: index spaces to match and the weights of A and B that live in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from graphrebase.errors import MismatchError

SpaceKind = Literal["residual", "head", "head_member", "head_qk", "head_vo", "mlp", "expert"]
Axes = tuple[str | None, ...]
Loader = Callable[[], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Space:
    """A set of interchangeable indices, or one such set per head.

    Attributes:
        name: structural name, such as `residual.3` or `block.2.head_qk`.
        kind: what the indices are.
        size: length of one map.
        over: name of the space whose index selects the map (a head space), or None.
        count: number of maps: the size of `over`, or 1.
    """

    name: str
    kind: SpaceKind
    size: int
    over: str | None = None
    count: int = 1

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of this space's map in an alignment: (size,) or (count, size)."""
        return (self.size,) if self.over is None else (self.count, self.size)


@dataclass(frozen=True, slots=True)
class Weight:
    """One role of the two models, as canonical arrays of equal shape.

    Attributes:
        role: what it is. A bias carries its matrix's role followed by `_bias` or `.bias`.
        axes: space name per axis; None marks an anchored or frozen axis (identity).
        a: loads A's array.
        b: loads B's array.

    Canonical shapes: q (kv, d, D) or, with grouped queries, (kv, g, d, D); k and v (kv, d, D);
    o (D, kv, d) or (D, kv, g, d); their biases without D; fc1 (M, D); fc2 (D, M); norm gains
    and biases (D,); embeddings (V, D); head (C, D).
    """

    role: str
    axes: Axes
    a: Loader
    b: Loader

    @property
    def spaces(self) -> tuple[str, ...]:
        """The distinct spaces of its axes, in axis order."""
        return tuple(dict.fromkeys(axis for axis in self.axes if axis is not None))


@dataclass(frozen=True, slots=True)
class AlignmentProblem:
    """Spaces and weights, the weights in topological order (embeddings first, head last).

    Attributes:
        spaces: every space by name.
        weights: every weight; several may share a space, which ties them.
        fixed: spaces held at the identity (heads that cannot move, whose inside can).

    Raises:
        MismatchError: an axis names an unknown space, a space hangs on a wrong one, or a weight
            has a per-head axis without its head axis.
    """

    spaces: Mapping[str, Space]
    weights: tuple[Weight, ...]
    fixed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check that spaces and axes fit together (shapes are checked when weights load)."""
        for name, space in self.spaces.items():
            _check_space(name, space, self.spaces)
        for weight in self.weights:
            _check_axes(weight, self.spaces)
        if unknown := self.fixed - set(self.spaces):
            raise MismatchError(f"fixed names unknown spaces: {', '.join(sorted(unknown))}")

    def children(self, head: str) -> tuple[Space, ...]:
        """Return the spaces whose maps are selected by the index of `head`."""
        return tuple(space for space in self.spaces.values() if space.over == head)

    def ordered_spaces(self) -> tuple[Space, ...]:
        """Return the spaces some weight has, in order of first appearance."""
        names = dict.fromkeys(name for weight in self.weights for name in weight.spaces)
        return tuple(self.spaces[name] for name in names)


def _check_space(name: str, space: Space, spaces: Mapping[str, Space]) -> None:
    if name != space.name:
        raise MismatchError(f"space {space.name!r} is listed as {name!r}")
    if space.kind not in get_args(SpaceKind):
        raise MismatchError(f"unknown kind of space {space.kind!r}", where=name)
    if space.size < 1 or space.count < 1:
        raise MismatchError("a space needs at least one index and one map", where=name)
    if space.over is None:
        if space.count != 1:
            raise MismatchError("a space over nothing has exactly one map", where=name)
        return
    parent = spaces.get(space.over)
    if parent is None or parent.over is not None or parent.size != space.count:
        raise MismatchError(
            f"space over {space.over!r} needs that space, flat and of size {space.count}",
            where=name,
        )


def _check_axes(weight: Weight, spaces: Mapping[str, Space]) -> None:
    for axis in weight.spaces:
        space = spaces.get(axis)
        if space is None:
            raise MismatchError(f"axis names unknown space {axis!r}", where=weight.role)
        if space.over is None:
            continue
        if weight.axes.count(space.over) != 1:
            raise MismatchError(
                f"axis {axis!r} needs exactly one axis {space.over!r} beside it", where=weight.role
            )


def check_shape(weight: Weight, shape: tuple[int, ...], spaces: Mapping[str, Space]) -> None:
    """Check that an array's shape fits the weight's axes.

    Raises:
        MismatchError: wrong rank, or an axis of another length than its space.
    """
    sizes = tuple(None if axis is None else spaces[axis].size for axis in weight.axes)
    fits = len(sizes) == len(shape) and all(
        want in (None, have) for want, have in zip(sizes, shape, strict=True)
    )
    if not fits:
        raise MismatchError(
            f"array of shape {shape} does not fit axes {weight.axes} of sizes {sizes}",
            where=weight.role,
            hint="A and B must have one architecture; inspect both to see where they differ",
        )
