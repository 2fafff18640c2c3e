"""Union-find over axis terms: what it takes for two axes to carry the same permutation.

``unify`` states that two axes carry the same permutation. It never fails: what cannot be
reconciled is frozen, which is always sound.

Terms have many spellings; ``factors`` gives the normal one, which everything else looks at:

1. a row-major list without products;
2. a fibre's index axis is a class of its own, neither a grid nor dependent (nested fibres);
3. a concatenation of dependent parts is written as a fibre of concatenations;
4. a fibre whose members are all equal is its member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    Fibre,
    Form,
    Frozen,
    Leaf,
    Product,
    Sum,
    children,
    common_cuts,
    common_refinement,
    concatenation,
    copies,
    fibre,
    flat_parts,
    frozen,
    leaf,
    leaves,
    occurs,
    product,
)

#: A fibre with more members than this is not worth following.
MAX_MEMBERS = 4096

_ROTARY = "rotary pairs: frequencies keep their place"


class Solver:
    """The operations that change axis classes; ``changes`` counts what they did."""

    def __init__(self) -> None:
        self.changes = 0
        # Both depend on the classes, so they hold until the next change. Without them the same
        # sub-terms would be spelt out again and again, exponentially often in deep nests.
        self._seen = 0
        self._factors: dict[Axis, list[Axis]] = {}
        self._at: dict[tuple[Axis, Axis, int], Axis] = {}

    # --- changing a class

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
            self._unify_fibre(a, right)
        elif isinstance(b, Fibre):
            self._unify_fibre(b, left)
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

    def _unify_fibre(self, form: Fibre, other: Axis) -> None:
        for i, member in enumerate(form.members):
            self.unify(member, self.at(other, form.over, i))

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

    # --- the normal form

    def factors(self, axis: Axis) -> list[Axis]:
        """Return the row-major factors of an axis in normal form; none of them is a product."""
        self._refresh()
        if axis.root not in self._factors:
            found = self._find_factors(axis)
            self._refresh()
            self._factors[axis.root] = found
        return list(self._factors[axis.root])

    def _refresh(self) -> None:
        if self._seen != self.changes:
            self._seen = self.changes
            self._factors.clear()
            self._at.clear()

    def _find_factors(self, axis: Axis) -> list[Axis]:
        form = axis.form
        if isinstance(form, Product):
            return [inner for factor in form.factors for inner in self.factors(factor)]
        if isinstance(form, Fibre):
            return self._fibre_factors(axis, form)
        if isinstance(form, Sum):
            over = self._dependence(axis)
            if over is not None:
                return self.factors(fibre(over, self._members_at(axis, over)))
        return [axis.root]

    def _members_at(self, axis: Axis, over: Axis) -> list[Axis]:
        return [self.at(axis, over, i) for i in range(over.length)]

    def _fibre_factors(self, axis: Axis, form: Fibre) -> list[Axis]:
        over = form.over
        if isinstance(over.form, Product):
            return self.factors(self._nest(form, self.factors(over)))
        outer = self._dependence(over)
        if outer is not None:
            nested = [_over(k, form.members) for k in self._members_at(over, outer)]
            return self.factors(fibre(outer, nested))
        members = [self.at(m, over, i) for i, m in enumerate(form.members)]
        if all(self.same(members[0], m) for m in members[1:]):
            return self.factors(members[0])
        split = [self.factors(m) for m in members]
        sizes: list[Dim] | None = [f.size for f in split[0]]
        for member in split[1:]:
            sizes = common_refinement(sizes, [f.size for f in member]) if sizes else None
        if not sizes:
            self.freeze(axis, "grouped differently from index to index of another axis")
            return self.factors(members[0])
        columns = list(zip(*(self.refine(f, sizes) for f in split), strict=True))
        if len(columns) == 1 and _unmoved(columns[0], form.members):
            return [axis.root]
        return [inner for column in columns for inner in self.factors(fibre(over, column))]

    def _nest(self, form: Fibre, over: list[Axis]) -> Axis:
        """Return the same fibre over the factors of its index axis, outermost first."""
        outer, rest = over[0], over[1:]
        if not rest:
            return fibre(outer, form.members)
        step = len(form.members) // outer.length
        members = []
        for i in range(outer.length):
            inner = [self.at(axis, outer, i) for axis in rest]
            chunk = form.members[i * step : (i + 1) * step]
            members.append(self._nest(Fibre(outer, chunk), inner))
        return fibre(outer, members)

    def _dependence(self, axis: Axis) -> Axis | None:
        """Return an index axis that an axis depends on without containing it, None if none."""
        form = axis.form
        if isinstance(form, Sum):
            found = (self._dependence(part) for part in form.parts)
            return next((over for over in found if over is not None), None)
        if isinstance(form, Leaf | Frozen):
            return None
        flat = self.factors(axis)
        inside = {cell.root for f in flat for cell in _index_cells(f)}
        for factor in flat:
            for over in _overs(factor):
                if over.root not in inside:
                    return over
        return None

    def same(self, left: Axis, right: Axis) -> bool:
        """Tell whether two terms are known to carry the same permutation."""
        if left.root is right.root:
            return True
        if left.size != right.size:
            return False
        if not leaves(left) and not leaves(right):
            return True
        a, b = self.factors(left), self.factors(right)
        return len(a) == len(b) and all(map(self._same_factor, a, b))

    def _same_factor(self, left: Axis, right: Axis) -> bool:
        a, b = left.form, right.form
        if left.root is right.root:
            return True
        if left.size != right.size or type(a) is not type(b):
            return False
        if isinstance(a, Sum) and isinstance(b, Sum):
            parts = flat_parts(a), flat_parts(b)
            return len(parts[0]) == len(parts[1]) and all(map(self.same, *parts))
        if isinstance(a, Fibre) and isinstance(b, Fibre):
            return self.same(a.over, b.over) and all(map(self.same, a.members, b.members))
        return isinstance(a, Frozen)

    # --- looking inside an axis, refining it where needed

    def at(self, axis: Axis, over: Axis, index: int) -> Axis:
        """Return ``axis`` as it is at one index of the axis ``over``."""
        self._refresh()
        key = (axis.root, over.root, index)
        if key not in self._at:
            found = self._find_at(axis, over, index)
            self._refresh()
            self._at[key] = found
        return self._at[key]

    def _find_at(self, axis: Axis, over: Axis, index: int) -> Axis:
        form = axis.form
        if isinstance(form, Fibre):
            return self._fibre_at(axis, form, over, index)
        if isinstance(form, Product):
            if any(f.root is over.root for f in self.factors(axis)):
                return axis  # it means its own index
            inner = [self.at(f, over, index) for f in form.factors]
            same = _unmoved(inner, form.factors)
            return axis if same else product(inner)
        if isinstance(form, Sum):
            inner = [self.at(p, over, index) for p in form.parts]
            same = _unmoved(inner, form.parts)
            return axis if same else concatenation(inner)
        return axis

    def _fibre_at(self, axis: Axis, form: Fibre, over: Axis, index: int) -> Axis:
        if form.over.root is over.root:
            return self.at(form.members[index], over, index)
        flat = self.factors(axis)
        if len(flat) != 1 or flat[0] is not axis.root:
            return product([self.at(f, over, index) for f in flat])
        members = [self.at(m, over, index) for m in form.members]
        if _unmoved(members, form.members):
            return axis
        return fibre(form.over, members)

    def refine(self, factors: Sequence[Axis], sizes: Sequence[Dim]) -> list[Axis]:
        """Return ``factors`` split further so that their sizes are ``sizes``, a refinement."""
        result: list[Axis] = []
        queue = list(factors)
        for size in sizes:
            if not queue:
                return result
            factor = queue.pop(0)
            if factor.size != size:
                head, tail = self.split(factor, size)
                queue.insert(0, tail)
                factor = head
            result.append(factor)
        return result

    def split(self, axis: Axis, outer: Dim) -> tuple[Axis, Axis]:
        """Split an axis into a grid whose first factor has the size ``outer``, a divisor."""
        inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
        form = axis.form
        if isinstance(form, Frozen):
            return frozen(outer, form.reason), frozen(inner, form.reason)
        if isinstance(form, Leaf) and form.copies and not is_static(axis.size):
            pair = (copies(outer), copies(inner))
            self._bind(axis, product(pair))
            return pair
        if not (is_static(outer) and is_static(inner)) or outer[0] > MAX_MEMBERS:
            return self._give_up_split(axis, outer, "regrouped by a dynamic size")
        if isinstance(form, Leaf):
            head = leaf(outer[0])
            tail = fibre(head, [leaf(inner[0]) for _ in range(outer[0])])
            self._bind(axis, Axis(axis.size, Product((head, tail))))
            return head, tail
        if isinstance(form, Fibre):
            pairs = [self.split(m, outer) for m in form.members]
            heads, tails = zip(*pairs, strict=True)
            return fibre(form.over, heads), fibre(form.over, tails)
        if isinstance(form, Sum):
            return self._split_sum(axis, form, outer)
        return self._split_product(axis, outer)

    def _give_up_split(self, axis: Axis, outer: Dim, reason: str) -> tuple[Axis, Axis]:
        self.freeze(axis, reason)
        inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
        return frozen(outer, reason), frozen(inner, reason)

    def _split_sum(self, axis: Axis, form: Sum, outer: Dim) -> tuple[Axis, Axis]:
        """Split a concatenation of equal parts as a grid with a frozen outer axis."""
        sizes = {p.size for p in form.parts}
        if len(sizes) != 1 or not is_static(form.parts[0].size):
            return self._give_up_split(axis, outer, "a concatenation is regrouped across its parts")
        count = len(form.parts)
        place = frozen((count, count), "position in a concatenation")
        self._set(axis, Product((place, fibre(place, form.parts))))
        return self.split(axis, outer)

    def _split_product(self, axis: Axis, outer: Dim) -> tuple[Axis, Axis]:
        flat = self.factors(axis)
        inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
        sizes = common_refinement([f.size for f in flat], [outer, inner])
        if sizes is None:
            return self._give_up_split(axis, outer, "regrouped across its factors")
        fine, head, reached = self.refine(flat, sizes), list[Axis](), (1, 1)
        for factor in fine:
            if reached == outer:
                break
            head.append(factor)
            reached = (reached[0] * factor.size[0], reached[1] * factor.size[1])
        return product(head), product(fine[len(head) :])

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

    def parts(self, axis: Axis, sizes: Sequence[Dim]) -> list[Axis]:
        """Cut an axis into consecutive parts of the given sizes."""
        if len(sizes) == 1:
            return [axis]
        return self._cut(axis, sizes)

    def _cut(self, axis: Axis, sizes: Sequence[Dim]) -> list[Axis]:
        form = axis.form
        if isinstance(form, Frozen):
            return [frozen(size, form.reason) for size in sizes]
        if not all(is_static(s) for s in (*sizes, axis.size)):
            return self._give_up_cut(axis, sizes, "cut at a dynamic bound")
        if isinstance(form, Leaf):
            cells = [leaf(size[0]) for size in sizes]
            self._bind(axis, concatenation(cells))
            return cells
        if isinstance(form, Fibre):
            columns = [self._cut(m, sizes) for m in form.members]
            return [fibre(form.over, members) for members in zip(*columns, strict=True)]
        if isinstance(form, Product):
            return self._cut_product(axis, form, sizes)
        return self._cut_sum(axis, form, sizes)

    def _give_up_cut(self, axis: Axis, sizes: Sequence[Dim], reason: str) -> list[Axis]:
        self.freeze(axis, reason)
        return [frozen(size, reason) for size in sizes]

    def _cut_product(self, axis: Axis, form: Product, sizes: Sequence[Dim]) -> list[Axis]:
        first, rest = form.factors[0], product(form.factors[1:])
        inner = rest.length
        if any(size[0] % inner for size in sizes):
            return self._give_up_cut(axis, sizes, "cut across the rows of a grid")
        bounds = [(size[0] // inner, size[0] // inner) for size in sizes]
        result, start = [], 0
        for part in self._cut(first, bounds):
            result.append(product([part, self.restrict(rest, first, start, part)]))
            start += part.length
        return result

    def restrict(self, axis: Axis, over: Axis, start: int, part: Axis) -> Axis:
        """Return ``axis`` where the axis ``over`` is cut down to ``part``, from ``start`` on."""
        form = axis.form
        if isinstance(form, Fibre) and form.over.root is over.root:
            members = form.members[start : start + part.length]
            return members[0] if part.size == UNIT else fibre(part, members)
        if isinstance(form, Fibre):
            # Each head has its own q, k and v: what is cut down depends on the head as well.
            inside = [
                self.restrict(
                    member, self.at(over, form.over, i), start, self.at(part, form.over, i)
                )
                for i, member in enumerate(form.members)
            ]
            return axis if _unmoved(inside, form.members) else fibre(form.over, inside)
        if isinstance(form, Product):
            return product([self.restrict(f, over, start, part) for f in form.factors])
        return axis

    def _cut_sum(self, axis: Axis, form: Sum, sizes: Sequence[Dim]) -> list[Axis]:
        fine = common_cuts([p.size for p in form.parts], sizes)
        if fine is None:
            return self._give_up_cut(axis, sizes, "cut at a dynamic bound")
        pieces: list[Axis] = []
        queue = list(fine)
        for part in form.parts:
            inside: list[Dim] = []
            while sum(s[0] for s in inside) < part.length:
                inside.append(queue.pop(0))
            pieces.extend(self.parts(part, inside))
        result: list[Axis] = []
        for size in sizes:
            chosen: list[Axis] = []
            while sum(p.length for p in chosen) < size[0]:
                chosen.append(pieces.pop(0))
            result.append(concatenation(chosen))
        return result

    # --- scope

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
        offered = Counter(root for f in flat for root in {c.root for c in _index_cells(f)})
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
                inside = (c for f in self.factors(form.selects) for c in _index_cells(f))
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
            over = {c.root for f in self.factors(form.over) for c in _index_cells(f)}
            if over & repeated:
                self.collapse(cell)
        return self.changes != before


def _same_lookup(a: Frozen, b: Frozen) -> bool:
    assert a.selects is not None and b.selects is not None
    return a.selects.root is b.selects.root and a.by == b.by


def _unmoved(found: Sequence[Axis], before: Sequence[Axis]) -> bool:
    return all(x.root is y.root for x, y in zip(found, before, strict=True))


def _over(index: Axis, members: Sequence[Axis]) -> Axis:
    return members[0] if index.size == UNIT else fibre(index, members)


def _index_cells(factor: Axis) -> list[Axis]:
    """Return the classes that a factor in normal form offers as index axes."""
    form = factor.form
    if isinstance(form, Fibre):
        return [cell for member in form.members for cell in _index_cells(member)]
    return [factor]


def _overs(factor: Axis) -> list[Axis]:
    """Return the index axes that a factor in normal form depends on, the outermost first."""
    form = factor.form
    if not isinstance(form, Fibre):
        return []
    return [form.over, *(over for member in form.members for over in _overs(member))]


def _swapped(a: Sum, b: Sum) -> bool:
    if len(a.parts) != 2 or len(b.parts) != 2 or a.parts[0].root is a.parts[1].root:
        return False
    return a.parts[0].root is b.parts[1].root and a.parts[1].root is b.parts[0].root
