"""Union-find over axis terms: what it takes for two axes to carry the same permutation.

``unify`` states that two axes carry the same permutation. It never fails: what cannot be
reconciled is frozen, which is always sound. ``close`` states which fibres a tensor can have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from graphrebase.symmetry.axes import (
    Axis,
    Fibre,
    Frozen,
    Leaf,
    Product,
    Sum,
    children,
    common_cuts,
    common_refinement,
    index_cells,
    leaves,
    occurs,
)
from graphrebase.symmetry.cutting import Cutting

_ROTARY = "rotary pairs: frequencies keep their place"


class Solver(Cutting):
    """What holds between axes; each of the classes it builds on uses only those below it."""

    def __init__(self) -> None:
        super().__init__()
        self._met: set[tuple[Axis, Axis]] = set()

    def unify(self, left: Axis, right: Axis) -> None:
        """State that two axes carry the same permutation."""
        if left.root is right.root:
            return
        if left.size != right.size:
            reason = f"sizes {left.size[0]} and {right.size[0]} meet"
            self.freeze(left, reason)
            self.freeze(right, reason)
            return
        a, b = left.form, right.form
        if isinstance(a, Leaf):
            self._unify_leaf(left, a, right)
        elif isinstance(b, Leaf):
            self._unify_leaf(right, b, left)
        elif isinstance(a, Frozen):
            self._meet_frozen(left, right, a)
        elif isinstance(b, Frozen):
            self._meet_frozen(right, left, b)
        elif isinstance(a, Product) or isinstance(b, Product):
            self._unify_products(left, right)
        elif isinstance(a, Fibre):
            self._unify_fibre(left, a, right)
        elif isinstance(b, Fibre):
            self._unify_fibre(right, b, left)
        else:
            self._unify_sums(left, right)

    def _unify_leaf(self, free: Axis, form: Leaf, other: Axis) -> None:
        if occurs(free.root, other):
            self._untangle(free, other)
            return
        if not form.copies:
            # Equal values on one side only: the class is an ordinary free axis.
            for inner in leaves(other):
                if inner.form == Leaf(copies=True):
                    self._set(inner, Leaf())
        self._bind(free, other)

    def _untangle(self, free: Axis, other: Axis) -> None:
        """Unify a free axis with a term that contains it: fibres in the way are collapsed."""
        stack = [other]
        while stack:
            inner = stack.pop()
            if isinstance(inner.form, Fibre) and occurs(free.root, inner):
                self.collapse(inner)
                self.unify(free, other)
                return
            stack.extend(children(inner.form))
        reason = "an axis would have to contain itself"
        self.freeze(free, reason)
        self.freeze(other, reason)

    def _meet_frozen(self, frozen_axis: Axis, other: Axis, form: Frozen) -> None:
        self.freeze(other, form.reason)
        met = other.form
        if not isinstance(met, Frozen):
            if form.selects is not None:
                self._bind(other, frozen_axis)  # a grid of frozen axes is frozen as a whole
        elif form.selects is None and met.selects is not None:
            self._bind(frozen_axis, other)
        else:
            if met.selects is not None and not _same_lookup(form, met):
                self._set(frozen_axis, Frozen(form.reason))
            self._bind(other, frozen_axis)

    def _unify_products(self, left: Axis, right: Axis) -> None:
        a, b = self.factors(left), self.factors(right)
        sizes = common_refinement([f.size for f in a], [f.size for f in b])
        if sizes is None:
            reason = "two groupings of one axis do not fit together"
            self.freeze(left, reason)
            self.freeze(right, reason)
            return
        fine_a, fine_b = self.refine(a, sizes), self.refine(b, sizes)
        for x, y in zip(fine_a, fine_b, strict=True):
            self.unify(x, y)

    def _unify_fibre(self, axis: Axis, form: Fibre, other: Axis) -> None:
        # Nested fibres share their parts. What has been made equal stays equal, so each pair is
        # met once; meeting it again wherever it occurs would take 4^depth steps, and more.
        pair = (axis.root, other.root)
        if pair in self._met:
            return
        for i, member in enumerate(form.members):
            self.unify(member, self.at(other, form.over, i))
        self._met.add(pair)

    def _unify_sums(self, left: Axis, right: Axis) -> None:
        a, b = left.form, right.form
        assert isinstance(a, Sum) and isinstance(b, Sum)
        if _swapped(a, b):
            # rotate_half: x * cos + (-x2 | x1) * sin. The two halves hold the pairs that rotate
            # together, and the frequency of a pair is fixed by its position.
            self.freeze(left, _ROTARY)
            self.freeze(right, _ROTARY)
            return
        sizes = common_cuts([p.size for p in a.parts], [p.size for p in b.parts])
        if sizes is None:
            self.freeze(left, "dynamic concatenations meet")
            self.freeze(right, "dynamic concatenations meet")
            return
        for x, y in zip(self._cut(left, sizes), self._cut(right, sizes), strict=True):
            self.unify(x, y)
        if not (occurs(left.root, right) or occurs(right.root, left)):
            self._bind(right, left)

    def collapse(self, axis: Axis) -> None:
        """Make the members of a fibre equal, so that it no longer depends on another axis."""
        form = axis.form
        if not isinstance(form, Fibre):
            return
        first, *others = form.members
        for member in others:
            self.unify(first, member)
        if not all(self.same(first, member) for member in others):
            self.freeze(axis, "its meaning differs from index to index of another axis")
        if isinstance(axis.form, Fibre):
            self._bind(axis, first)

    def close(self, axes: Sequence[Axis], *, lookups: bool = True) -> None:
        """Collapse every fibre whose index axis is not exactly one of the axes of its tensor.

        Where two axes of a tensor are one class (x @ x^T over the features: heads by heads), it
        would be open which of the two a fibre depends on.

        Args:
            axes: the axes of one tensor.
            lookups: an axis of looked-up indices counts as the axis it selects along.
        """
        while self._close_once(axes, lookups):
            pass

    def _close_once(self, axes: Sequence[Axis], lookups: bool) -> bool:
        flat = [f for axis in axes for f in self.factors(axis)]
        selected = self._selected(flat) if lookups else []
        offered = Counter(root for f in flat for root in {c.root for c in index_cells(f)})
        offered.update(selected)
        repeated = {root for root, count in offered.items() if count > 1}
        if repeated and self._collapse_over(axes, repeated):
            return True
        fibres = [f for f in flat if isinstance(f.form, Fibre)]
        plain = {f.root for f in flat if not isinstance(f.form, Fibre)} | set(selected)
        for axis in fibres:
            if isinstance(axis.form, Fibre) and axis.form.over.root not in plain:
                self.collapse(axis)
                return True
        nested = {
            f.form.over.root: None
            for f in fibres
            if isinstance(f.form, Fibre) and any(isinstance(m.form, Fibre) for m in f.form.members)
        }
        for over in nested:
            rest = [f for f in flat if f.root is not over]
            before = self.changes
            for i in range(over.length):
                self.close([self.at(f, over, i) for f in rest], lookups=lookups)
            if self.changes != before:
                return True
        return False

    def _selected(self, flat: Sequence[Axis]) -> list[Axis]:
        """Return the index axes that look-ups select along, once per look-up."""
        found: list[Axis] = []
        for factor in flat:
            form = factor.form
            if isinstance(form, Frozen) and form.selects is not None:
                inside = (c for f in self.factors(form.selects) for c in index_cells(f))
                found.extend({cell.root for cell in inside})
        return found

    def _collapse_over(self, axes: Sequence[Axis], repeated: Set[Axis]) -> bool:
        """Collapse the fibres over some classes, also those that the normal form takes as one."""
        stack, seen, before = list(axes), set[Axis](), self.changes
        while stack:
            cell = stack.pop()
            form = cell.form
            if cell.root in seen:
                continue
            seen.add(cell.root)
            stack.extend(children(form))
            if not isinstance(form, Fibre) or all(
                self.same(form.members[0], member) for member in form.members[1:]
            ):
                continue
            over = {c.root for f in self.factors(form.over) for c in index_cells(f)}
            if over & repeated:
                self.collapse(cell)
        return self.changes != before


def _same_lookup(a: Frozen, b: Frozen) -> bool:
    assert a.selects is not None and b.selects is not None
    return a.selects.root is b.selects.root and a.by == b.by


def _swapped(a: Sum, b: Sum) -> bool:
    if len(a.parts) != 2 or len(b.parts) != 2 or a.parts[0].root is a.parts[1].root:
        return False
    return a.parts[0].root is b.parts[1].root and a.parts[1].root is b.parts[0].root
