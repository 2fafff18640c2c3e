"""Classes of axes: what union-find may do to one of them.

The layers above say when: ``normal`` (the normal form of a term), ``cutting`` (consecutive parts)
and ``solver`` (which axes carry the same permutation).
"""

from __future__ import annotations

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import (
    Axis,
    Fibre,
    Form,
    Frozen,
    Leaf,
    children,
    fibre,
    leaf,
    occurs,
)

#: A fibre with more members than this is not worth following.
MAX_MEMBERS = 4096


class Classes:
    """The operations that change one class; ``changes`` counts what they did."""

    def __init__(self) -> None:
        self.changes = 0

    def _bind(self, cell: Axis, target: Axis) -> None:
        root, goal = cell.root, target.root
        if root is goal:
            return
        root._parent = goal
        self.changes += 1

    def _set(self, cell: Axis, form: Form) -> None:
        cell.root._form = form
        self.changes += 1

    def freeze(self, axis: Axis, reason: str) -> None:
        """Forbid every permutation of ``axis``, with the reason people are shown."""
        form = axis.form
        if isinstance(form, Leaf):
            self._set(axis, Frozen(reason))
        else:
            for inner in children(form):
                self.freeze(inner, reason)

    def spread(self, axis: Axis, over: Axis) -> None:
        """Let a free axis have another order at every index of ``over``.

        Sound at any time: wherever ``over`` is absent, ``close`` makes the orders equal again.
        """
        form = axis.form
        if not isinstance(form, Leaf) or form.copies or not is_static(over.size):
            return
        if not 1 < over.length <= MAX_MEMBERS or occurs(axis.root, over):
            return
        self._bind(axis, fibre(over, [leaf(axis.length) for _ in range(over.length)]))

    def settle(self, axis: Axis, seen: set[Axis]) -> None:
        """Write every fibre whose members are one class as that class, for readers of terms."""
        if axis.root in seen:
            return
        seen.add(axis.root)
        form = axis.form
        for inner in children(form):
            self.settle(inner, seen)
        if isinstance(form, Fibre) and len({member.root for member in form.members}) == 1:
            self._bind(axis, form.members[0])
