"""The normal form of axis terms, and the grids that a Reshape makes of them.

Terms have many spellings; ``factors`` gives the normal one, which everything else looks at:

1. a row-major list without products;
2. a fibre's index axis is a class of its own, neither a grid nor dependent (nested fibres);
3. a concatenation of dependent parts is written as a fibre of concatenations;
4. a fibre whose members are all equal is its member.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    Fibre,
    Frozen,
    Leaf,
    Product,
    Sum,
    common_refinement,
    concatenation,
    copies,
    fibre,
    flat_parts,
    frozen,
    index_cells,
    leaf,
    leaves,
    product,
)
from graphrebase.symmetry.classes import MAX_MEMBERS, Classes


class NormalForm(Classes):
    """Terms in normal form, at one index of another axis, and split into grids."""

    def __init__(self) -> None:
        super().__init__()
        # Both depend on the classes, so they hold until the next change. Without them the same
        # sub-terms would be spelt out again and again, exponentially often in deep nests.
        self._seen = 0
        self._factors: dict[Axis, list[Axis]] = {}
        self._at: dict[tuple[Axis, Axis, int], Axis] = {}

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
        if len(columns) == 1 and unmoved(columns[0], form.members):
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
        inside = {cell.root for f in flat for cell in index_cells(f)}
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
            same = unmoved(inner, form.factors)
            return axis if same else product(inner)
        if isinstance(form, Sum):
            inner = [self.at(p, over, index) for p in form.parts]
            same = unmoved(inner, form.parts)
            return axis if same else concatenation(inner)
        return axis

    def _fibre_at(self, axis: Axis, form: Fibre, over: Axis, index: int) -> Axis:
        if form.over.root is over.root:
            return self.at(form.members[index], over, index)
        flat = self.factors(axis)
        if len(flat) != 1 or flat[0] is not axis.root:
            return product([self.at(f, over, index) for f in flat])
        members = [self.at(m, over, index) for m in form.members]
        if unmoved(members, form.members):
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


def unmoved(found: Sequence[Axis], before: Sequence[Axis]) -> bool:
    """Tell whether two lists hold the same classes."""
    return all(x.root is y.root for x, y in zip(found, before, strict=True))


def _over(index: Axis, members: Sequence[Axis]) -> Axis:
    return members[0] if index.size == UNIT else fibre(index, members)


def _overs(factor: Axis) -> list[Axis]:
    """Return the index axes that a factor in normal form depends on, the outermost first."""
    form = factor.form
    if not isinstance(form, Fibre):
        return []
    return [form.over, *(over for member in form.members for over in _overs(member))]
