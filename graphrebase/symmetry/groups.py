"""Symmetry groups: the free axes of a solved graph, and everything that moves with each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphrebase.symmetry.axes import UNIT, Axis, Fibre, Frozen, Leaf, cells, children, leaves
from graphrebase.symmetry.registry import Axes
from graphrebase.symmetry.solver import Solver


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one constant that moves with a group. Several leaves may lie on it."""

    tensor: str
    axis: int


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A set of indices that may be permuted together without changing the function.

    A group inside each head has one leaf per head (``count``), all of the same ``size``.

    Attributes:
        leaves: the free axes; one, or one per index of ``over``.
        over: the axis (a head axis) whose index selects the leaf, or None.
        members: every (constant, axis) that must move together.
    """

    leaves: tuple[Axis, ...]
    over: Axis | None
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Return the number of interchangeable indices."""
        return self.leaves[0].length

    @property
    def count(self) -> int:
        """Return how many independent permutations the group has."""
        return len(self.leaves)


@dataclass(frozen=True, slots=True)
class FrozenAxis:
    """An axis of a constant, or a part of it, that must keep its order."""

    tensor: str
    axis: int
    size: int
    reason: str


def _placed(
    solver: Solver, axis: Axis, path: tuple[str, ...], over: Axis | None
) -> Iterable[tuple[Axis, tuple[str, ...], Axis | None]]:
    """Yield every free axis with its place; the members of one fibre share a place."""
    for offset, factor in enumerate(solver.factors(axis)):
        form, here = factor.form, (*path, str(offset))
        if isinstance(form, Leaf):
            yield factor.root, here, over
        elif isinstance(form, Fibre):
            outer = form.over.root if any(x.length > 1 for x in leaves(form.over)) else None
            for index, member in enumerate(form.members):
                step = f"[{index}]" if outer is None else "[]"
                inner = outer if outer is not None else over
                yield from _placed(solver, member, (*here, step), inner)
        else:
            for index, part in enumerate(children(form)):
                yield from _placed(solver, part, (*here, f"+{index}"), over)


def find_groups(constants: Mapping[str, Axes], solver: Solver) -> Iterable[Group]:
    """Yield the groups of the free axes that constants have."""
    places: dict[Axis, set[tuple[str, int, tuple[str, ...]]]] = {}
    overs: dict[Axis, Axis] = {}
    for name, axes in constants.items():
        for position, axis in enumerate(axes):
            for root, path, over in _placed(solver, axis, (), None):
                if root.length > 1:
                    places.setdefault(root, set()).add((name, position, path))
                    if over is not None:
                        overs[root] = over
    families: dict[object, list[Axis]] = {}
    for root, where in places.items():
        over = overs.get(root)
        key = root if over is None else (over.root, root.length, frozenset(where))
        families.setdefault(key, []).append(root)
    for roots in families.values():
        members = {Member(name, position) for name, position, _ in places[roots[0]]}
        over = overs.get(roots[0])
        yield Group(
            leaves=tuple(roots),
            over=None if over is None else over.root,
            members=tuple(sorted(members, key=lambda m: (m.tensor, m.axis))),
        )


def freeze_unread(
    constants: Mapping[str, Axes], values: Mapping[str, Axes], solver: Solver
) -> None:
    """Freeze parts of constants that nothing reads (rows cut off): no check could see them move."""
    places: dict[Axis, set[tuple[str, int, tuple[str, ...]]]] = {}
    for name, axes in constants.items():
        for position, axis in enumerate(axes):
            for root, path, _ in _placed(solver, axis, (), None):
                places.setdefault(root, set()).add((name, position, path))
    alone = {root for root, where in places.items() if len(where) == 1 and root.length > 1}
    seen = {axis.root: axis for axes in values.values() for axis in axes} if alone else {}
    for axis in seen.values():
        alone.difference_update(root for root, _, _ in _placed(solver, axis, (), None))
    for root in alone:
        solver.freeze(root, "nothing reads it")


def find_frozen(constants: Mapping[str, Axes]) -> Iterable[FrozenAxis]:
    """Yield the frozen axes of constants, and the frozen parts of axes, with the reasons."""
    for name, axes in constants.items():
        for position, axis in enumerate(axes):
            for reason in dict.fromkeys(frozen_reasons(axis)):
                if reason != "size 1":
                    yield FrozenAxis(name, position, axis.length, reason)


def frozen_reasons(axis: Axis) -> Iterable[str]:
    """Yield why an axis, or parts of it, must keep their order."""
    for cell in cells(axis):
        if isinstance(cell.form, Frozen) and cell.size != UNIT:
            yield cell.form.reason
