"""Axis terms: what is known of the indices along one axis of a tensor.

An axis is one of

* ``Leaf``: interchangeable indices, one free permutation;
* ``Product``: a row-major grid of factors (heads x head_dim), from Reshape;
* ``Sum``: a concatenation of parts (q|k|v), from Concat, Split and Slice;
* ``Fibre``: an axis whose meaning depends on the index along another axis ``over`` of the same
  tensor; ``members[i]`` is the axis at index i (every head has its own inner axis);
* ``Frozen``: identity only, with the reason.

The operations that relate axes are in ``solver`` and the modules that it builds on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static

UNIT: Dim = (1, 1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Interchangeable indices. ``copies``: the indices hold equal values (from Expand)."""

    copies: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    """Identity only.

    An axis of tokens, each with an expert looked up for it, ``selects`` along the axis of experts:
    what depends on the expert depends on the token. ``by`` tells look-ups apart.
    """

    reason: str
    selects: Axis | None = None
    by: Hashable = None


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


def copies(size: Dim) -> Axis:
    """Return an axis whose indices hold equal values, of a static or a dynamic size."""
    return frozen(size, "size 1") if size == UNIT else Axis(size, Leaf(copies=True))


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


def children(form: Form) -> Iterable[Axis]:
    """Return the axes a form is made of (the index axis of a fibre is not one of them)."""
    if isinstance(form, Product):
        return form.factors
    if isinstance(form, Sum):
        return form.parts
    if isinstance(form, Fibre):
        return form.members
    return ()


def cells(axis: Axis) -> Iterator[Axis]:
    """Yield the classes that an axis term is made of, in index order, each once.

    Terms share parts (fibres over the same axis), so each is looked into once.
    """
    stack, seen = [axis], set[Axis]()
    while stack:
        cell = stack.pop().root
        if cell not in seen:
            seen.add(cell)
            yield cell
            stack.extend(reversed(tuple(children(cell.form))))


def leaves(axis: Axis) -> list[Axis]:
    """Return the free axes inside an axis term, in index order, each class once."""
    return [cell for cell in cells(axis) if isinstance(cell.form, Leaf)]


def occurs(root: Axis, term: Axis) -> bool:
    """Tell whether a class lies anywhere inside a term, as an index axis of a fibre too."""
    stack, seen = [term], set[Axis]()
    while stack:
        cell = stack.pop().root
        if cell is root:
            return True
        if cell not in seen:
            seen.add(cell)
            stack.extend(children(cell.form))
            if isinstance(cell.form, Fibre):
                stack.append(cell.form.over)
    return False


def flat_parts(form: Sum) -> list[Axis]:
    """Return the parts of a concatenation; none of them is a concatenation."""
    parts: list[Axis] = []
    for part in form.parts:
        inner = part.form
        parts.extend(flat_parts(inner) if isinstance(inner, Sum) else [part])
    return parts


def index_cells(factor: Axis) -> list[Axis]:
    """Return the classes that a factor in normal form offers as index axes."""
    form = factor.form
    if isinstance(form, Fibre):
        return [cell for member in form.members for cell in index_cells(member)]
    return [factor]


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
