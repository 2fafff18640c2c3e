"""Consecutive parts of an axis, as Split and Slice make them."""

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
    common_cuts,
    concatenation,
    fibre,
    frozen,
    leaf,
    product,
)
from graphrebase.symmetry.normal import NormalForm, unmoved


class Cutting(NormalForm):
    """Terms cut into consecutive parts."""

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
            return axis if unmoved(inside, form.members) else fibre(form.over, inside)
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
