"""Axis terms: what is known of the indices along one axis of a tensor, solved by union-find.

An axis is one of

* ``Leaf``: interchangeable indices, one free permutation;
* ``Product``: a row-major grid of factors (heads x head_dim), from Reshape;
* ``Sum``: a concatenation of parts (q|k|v), from Concat, Split and Slice;
* ``Fibre``: an axis whose meaning depends on the index along another axis ``over`` of the same
  tensor; ``members[i]`` is the axis at index i (every head has its own inner axis);
* ``Frozen``: identity only, with the reason.

``unify`` states that two axes carry the same permutation. It never fails: what cannot be
reconciled is frozen, which is always sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static

#: A fibre with more members than this is not worth following.
MAX_MEMBERS = 4096

UNIT: Dim = (1, 1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Interchangeable indices. ``copies``: the indices hold equal values (from Expand)."""

    copies: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    """Identity only."""

    reason: str


@dataclass(frozen=True, slots=True)
class Product:
    """A row-major grid of factors."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """A concatenation of parts."""

    parts: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Fibre:
    """One axis per index of ``over``."""

    over: Axis
    members: tuple[Axis, ...]


Form = Leaf | Frozen | Product | Sum | Fibre


class Axis:
    """A union-find cell: ``size`` under both shape probes, and the form of its class."""

    __slots__ = ("_form", "_parent", "size")

    def __init__(self, size: Dim, form: Form) -> None:
        self.size = size
        self._form = form
        self._parent: Axis | None = None

    @property
    def root(self) -> Axis:
        """Return the representative of the class."""
        cell = self
        while cell._parent is not None:
            if cell._parent._parent is not None:
                cell._parent = cell._parent._parent
            cell = cell._parent
        return cell

    @property
    def form(self) -> Form:
        """Return the form of the class."""
        return self.root._form

    @property
    def length(self) -> int:
        """Return the static size."""
        return self.size[0]

    def __repr__(self) -> str:
        """Return a short picture of the term, for debugging."""
        return describe(self)


def leaf(size: int, *, copies: bool = False) -> Axis:
    """Return a fresh free axis of ``size`` indices."""
    return Axis((size, size), Leaf(copies))


def frozen(size: Dim, reason: str) -> Axis:
    """Return an axis that allows the identity only."""
    return Axis(size, Frozen(reason))


def product(factors: Sequence[Axis]) -> Axis:
    """Return the row-major grid of ``factors``; a single factor is returned as it is."""
    kept = [f for f in factors if f.size != UNIT]
    if not kept:
        return frozen(UNIT, "size 1")
    if len(kept) == 1:
        return kept[0]
    size = (1, 1)
    for factor in kept:
        size = (size[0] * factor.size[0], size[1] * factor.size[1])
    return Axis(size, Product(tuple(kept)))


def concatenation(parts: Sequence[Axis]) -> Axis:
    """Return the concatenation of ``parts``; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    size = (sum(p.size[0] for p in parts), sum(p.size[1] for p in parts))
    return Axis(size, Sum(tuple(parts)))


def fibre(over: Axis, members: Sequence[Axis]) -> Axis:
    """Return the axis that is ``members[i]`` at index i of ``over``."""
    return Axis(members[0].size, Fibre(over, tuple(members)))


def describe(axis: Axis, depth: int = 3) -> str:
    """Return a short picture of an axis term."""
    form = axis.form
    if isinstance(form, Leaf):
        return f"leaf({axis.length})"
    if isinstance(form, Frozen):
        return f"frozen({axis.size[0]}: {form.reason})"
    if depth == 0:
        return ".."
    if isinstance(form, Product):
        return "product(" + ", ".join(describe(f, depth - 1) for f in form.factors) + ")"
    if isinstance(form, Sum):
        return "sum(" + ", ".join(describe(p, depth - 1) for p in form.parts) + ")"
    return f"fibre({len(form.members)} x {describe(form.members[0], depth - 1)})"


class Solver:
    """The operations that change axis classes; ``changes`` counts what they did."""

    def __init__(self) -> None:
        self.changes = 0

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
        if isinstance(form, Fibre):
            for member in form.members[1:]:
                self.unify(form.members[0], member)
            if axis.root is not form.members[0].root:
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
            self._bind(left, right)
        elif isinstance(b, Leaf):
            self._bind(right, left)
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

    def _meet_frozen(self, frozen_axis: Axis, other: Axis, form: Frozen) -> None:
        self.freeze(other, form.reason)
        if isinstance(other.form, Frozen):
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
        for i, member in enumerate(form.members):
            self.unify(member, self.at(other, form.over, i))

    def _unify_sums(self, left: Axis, right: Axis) -> None:
        a, b = left.form, right.form
        assert isinstance(a, Sum) and isinstance(b, Sum)
        if _swapped(a, b):
            # rotate_half: x * cos + (-x2 | x1) * sin. The two halves hold the pairs that rotate
            # together, and the frequency of a pair is fixed by its position.
            self.freeze(left, "rotary pairs: frequencies keep their place")
            self.freeze(right, "rotary pairs: frequencies keep their place")
            return
        sizes = common_cuts([p.size for p in a.parts], [p.size for p in b.parts])
        if sizes is None:
            self.freeze(left, "dynamic concatenations meet")
            self.freeze(right, "dynamic concatenations meet")
            return
        for x, y in zip(self._cut(left, sizes), self._cut(right, sizes), strict=True):
            self.unify(x, y)

    # --- looking inside an axis, refining it where needed

    def factors(self, axis: Axis) -> list[Axis]:
        """Return the row-major factors of an axis; none of them is a product."""
        form = axis.form
        if isinstance(form, Product):
            return [inner for factor in form.factors for inner in self.factors(factor)]
        if isinstance(form, Fibre):
            return self._fibre_factors(axis, form)
        return [axis.root]

    def _fibre_factors(self, axis: Axis, form: Fibre) -> list[Axis]:
        over = form.over.form
        if isinstance(over, Product):
            return self.factors(self._nest(form, self.factors(form.over)))
        if isinstance(over, Fibre):
            nested = [
                fibre(k, form.members) if k.size != UNIT else form.members[0] for k in over.members
            ]
            return self.factors(fibre(over.over, nested))
        if not any(isinstance(m.form, Product | Fibre) for m in form.members):
            return [axis.root]
        split = [self.factors(m) for m in form.members]
        finest = max(split, key=len)
        if len(finest) == 1:
            return [axis.root]
        columns = [self.refine(f, [x.size for x in finest]) for f in split]
        if any(len(c) != len(finest) for c in columns):
            return [axis.root]
        return [fibre(form.over, members) for members in zip(*columns, strict=True)]

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

    def at(self, axis: Axis, over: Axis, index: int) -> Axis:
        """Return ``axis`` as it is at one index of the axis ``over``."""
        form = axis.form
        if isinstance(form, Fibre):
            if form.over.root is over.root:
                return form.members[index]
            if isinstance(form.over.form, Product | Fibre):
                flat = self.factors(axis)
                if not (len(flat) == 1 and flat[0] is axis.root):
                    return product([self.at(f, over, index) for f in flat])
            inner_over = self.at(form.over, over, index)
            members = [self.at(m, over, index) for m in form.members]
            if inner_over is form.over and all(
                x is y for x, y in zip(members, form.members, strict=True)
            ):
                return axis
            return fibre(inner_over, members)
        if isinstance(form, Product):
            inner = [self.at(f, over, index) for f in form.factors]
            same = all(x is y for x, y in zip(inner, form.factors, strict=True))
            return axis if same else product(inner)
        if isinstance(form, Sum):
            inner = [self.at(p, over, index) for p in form.parts]
            same = all(x is y for x, y in zip(inner, form.parts, strict=True))
            return axis if same else concatenation(inner)
        return axis

    def refine(self, factors: Sequence[Axis], sizes: Sequence[Dim]) -> list[Axis]:
        """Return ``factors`` split further so that their sizes are ``sizes``."""
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
        """Split an axis into a grid whose first factor has the size ``outer``."""
        inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
        form = axis.form
        if isinstance(form, Frozen):
            return frozen(outer, form.reason), frozen(inner, form.reason)
        if not (is_static(outer) and is_static(inner)) or outer[0] > MAX_MEMBERS:
            self.freeze(axis, "regrouped by a dynamic size")
            return (
                self.split(axis, outer) if isinstance(axis.form, Frozen) else _parts(outer, inner)
            )
        if isinstance(form, Leaf):
            head = leaf(outer[0])
            tail = fibre(head, [leaf(inner[0]) for _ in range(outer[0])])
            self._bind(axis, Axis(axis.size, Product((head, tail))))
            return head, tail
        if isinstance(form, Fibre):
            pairs = [self._split_any(m, outer) for m in form.members]
            heads, tails = zip(*pairs, strict=True)
            return fibre(form.over, heads), fibre(form.over, tails)
        return self._split_any(axis, outer)

    def _split_any(self, axis: Axis, outer: Dim) -> tuple[Axis, Axis]:
        """Split an axis of any form in two, merging factors where it is a finer grid."""
        form = axis.form
        if isinstance(form, Sum):
            equal = self._as_product(axis, form)
            if equal is not None:
                return self._split_any(equal, outer)
            inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
            self.freeze(axis, "a concatenation is regrouped across its parts")
            return _parts(outer, inner)
        if not isinstance(form, Product):
            return self.split(axis, outer)
        flat = self.factors(axis)
        inner = (axis.size[0] // outer[0], axis.size[1] // outer[1])
        sizes = common_refinement([f.size for f in flat], [outer, inner])
        if sizes is None:
            self.freeze(axis, "regrouped across its factors")
            return _parts(outer, inner)
        fine, head, reached = self.refine(flat, sizes), list[Axis](), (1, 1)
        for factor in fine:
            if reached == outer:
                break
            head.append(factor)
            reached = (reached[0] * factor.size[0], reached[1] * factor.size[1])
        return product(head), product(fine[len(head) :])

    def _as_product(self, axis: Axis, form: Sum) -> Axis | None:
        """Return a concatenation of equal parts as a grid with a frozen outer axis."""
        if len({p.size for p in form.parts}) != 1 or not is_static(form.parts[0].size):
            return None
        count = len(form.parts)
        outer = frozen((count, count), "position in a concatenation")
        grid = product([outer, fibre(outer, form.parts)])
        if isinstance(axis.root._form, Sum):
            self._set(axis, Product((outer, fibre(outer, form.parts))))
        return grid

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
            self.freeze(axis, "cut at a dynamic bound")
            return [frozen(size, "cut at a dynamic bound") for size in sizes]
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

    def _cut_product(self, axis: Axis, form: Product, sizes: Sequence[Dim]) -> list[Axis]:
        first, rest = form.factors[0], product(form.factors[1:])
        inner = rest.length
        if any(size[0] % inner for size in sizes):
            self.freeze(axis, "cut across the rows of a grid")
            return [frozen(size, "cut across the rows of a grid") for size in sizes]
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
        if isinstance(form, Product):
            return product([self.restrict(f, over, start, part) for f in form.factors])
        return axis

    def _cut_sum(self, axis: Axis, form: Sum, sizes: Sequence[Dim]) -> list[Axis]:
        fine = common_cuts([p.size for p in form.parts], sizes)
        if fine is None:
            self.freeze(axis, "cut at a dynamic bound")
            return [frozen(size, "cut at a dynamic bound") for size in sizes]
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

    def close(self, axes: Sequence[Axis]) -> None:
        """Collapse every fibre whose index axis is not among ``axes`` of the same tensor."""
        while self._close_once(axes):
            pass

    def _close_once(self, axes: Sequence[Axis]) -> bool:
        flat = [f for axis in axes for f in self.factors(axis)]
        fibres = [f for f in flat if isinstance(f.form, Fibre)]
        if not fibres:
            return False
        present = {f.root for f in flat if not isinstance(f.form, Fibre)}
        for axis in fibres:
            form = axis.form
            if isinstance(form, Fibre) and form.over.root not in present:
                self.collapse(axis)
                return True
        nested = {
            f.form.over.root: None
            for f in fibres
            if isinstance(f.form, Fibre)
            and any(isinstance(m.form, Fibre | Product) for m in f.form.members)
        }
        for over in nested:
            rest = [f for f in flat if f.root is not over]
            before = self.changes
            for i in range(over.length):
                self.close([self.at(f, over, i) for f in rest])
            if self.changes != before:
                return True
        return False


def children(form: Form) -> Iterable[Axis]:
    """Return the axes a form is made of (the index axis of a fibre is not one of them)."""
    if isinstance(form, Product):
        return form.factors
    if isinstance(form, Sum):
        return form.parts
    if isinstance(form, Fibre):
        return form.members
    return ()


def leaves(axis: Axis) -> list[Axis]:
    """Return the free axes inside an axis term, in index order, each class once."""
    form = axis.form
    if isinstance(form, Leaf):
        return [axis.root]
    found: dict[Axis, None] = {}
    for inner in children(form):
        found.update(dict.fromkeys(leaves(inner)))
    return list(found)


def common_refinement(a: Sequence[Dim], b: Sequence[Dim]) -> list[Dim] | None:
    """Return the coarsest grid sizes that refine both, or None where they do not nest."""
    left, right, result = list(a), list(b), list[Dim]()
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x == y:
            result.append(x)
        elif x[0] % y[0] == 0 and x[1] % y[1] == 0:
            result.append(y)
            left.insert(0, (x[0] // y[0], x[1] // y[1]))
        elif y[0] % x[0] == 0 and y[1] % x[1] == 0:
            result.append(x)
            right.insert(0, (y[0] // x[0], y[1] // x[1]))
        else:
            return None
    rest = [d for d in (*left, *right) if d != UNIT]
    return None if rest else result


def common_cuts(a: Sequence[Dim], b: Sequence[Dim]) -> list[Dim] | None:
    """Return the sizes of the coarsest concatenation that refines both; static sizes only."""
    if not all(is_static(d) for d in (*a, *b)):
        return list(a) if list(a) == list(b) else None
    bounds: set[int] = set()
    for sizes in (a, b):
        total = 0
        for size in sizes:
            total += size[0]
            bounds.add(total)
    steps = sorted(bounds)
    return [(n - m, n - m) for m, n in zip([0, *steps[:-1]], steps, strict=True)]


def _parts(outer: Dim, inner: Dim) -> tuple[Axis, Axis]:
    reason = "regrouped in a way that no permutation survives"
    return frozen(outer, reason), frozen(inner, reason)


def _swapped(a: Sum, b: Sum) -> bool:
    if len(a.parts) != 2 or len(b.parts) != 2 or a.parts[0].root is a.parts[1].root:
        return False
    return a.parts[0].root is b.parts[1].root and a.parts[1].root is b.parts[0].root
