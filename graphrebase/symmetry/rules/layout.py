"""Rules of operators that only rearrange: Reshape, Transpose, Concat, Split, Expand and kin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from graphrebase.graph import Dim
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    Frozen,
    Leaf,
    common_refinement,
    concatenation,
    copies,
    fibre,
    frozen,
    leaf,
    product,
)
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule


@rule("Reshape", "Flatten")
def reshape(context: Context) -> list[Axes]:
    """Regroup the row-major factors of all axes; a leaf is split into a grid where needed."""
    return [regroup(context, context.axes(0), context.dims())]


def regroup(context: Context, axes: Sequence[Axis], dims: Sequence[Dim]) -> Axes:
    """Return the axes of a tensor reshaped to ``dims``.

    Wherever as many elements lie before a factor as before a dimension, what follows is regrouped
    by itself: (B, h, i, j) read as (B, h, j, i) mixes positions (XLNet's shift), no heads.
    """
    flat = [f for axis in axes for f in context.solver.factors(axis) if f.size != UNIT]
    wanted = [d for d in dims if d != UNIT]
    result: Axes = []
    for count, grouped in _blocks([f.size for f in flat], wanted):
        result += _regrouped(context, flat[:count], wanted[:grouped])
        flat, wanted = flat[count:], wanted[grouped:]
    left = iter(result)
    return [frozen(UNIT, "size 1") if d == UNIT else next(left) for d in dims]


def _blocks(sizes: Sequence[Dim], wanted: Sequence[Dim]) -> list[tuple[int, int]]:
    """Return how many factors, and how many dimensions, make up each block of a Reshape."""
    before, after = _bounds_of(sizes), _bounds_of(wanted)
    if not before or before[-1:] != after[-1:] or any(0 in d for d in (*sizes, *wanted)):
        return [(len(sizes), len(wanted))]
    shared = [(before.index(n) + 1, after.index(n) + 1) for n in before if n in after]
    starts = [(0, 0), *shared[:-1]]
    return [(a - c, b - d) for (a, b), (c, d) in zip(shared, starts, strict=True)]


def _bounds_of(sizes: Sequence[Dim]) -> list[Dim]:
    """Return the product of all sizes up to each one."""
    return list(itertools.accumulate(sizes, lambda a, b: (a[0] * b[0], a[1] * b[1])))


def _regrouped(context: Context, flat: Sequence[Axis], wanted: Sequence[Dim]) -> Axes:
    """Return the axes of the sizes ``wanted``, none of them 1, made of all the factors."""
    solver = context.solver
    sizes = common_refinement([f.size for f in flat], wanted)
    if sizes is None:
        for factor in flat:
            solver.freeze(factor, "regrouped by Reshape across its factors")
        return [frozen(d, "regrouped by Reshape across its factors") for d in wanted]
    fine = solver.refine(flat, sizes)
    result: Axes = []
    for dim in wanted:
        group: list[Axis] = []
        reached = UNIT
        while reached != dim:
            factor = fine.pop(0)
            reached = (reached[0] * factor.size[0], reached[1] * factor.size[1])
            group.append(_freed(group[-1], factor) if group else factor)
        result.append(product(group))
    return result


def _freed(outer: Axis, factor: Axis) -> Axis:
    """Let copies (heads repeated for a key-value group) be permuted apart in every group."""
    form = factor.form
    if isinstance(form, Leaf) and form.copies and is_static(outer.size):
        return fibre(outer, [leaf(factor.length, copies=True) for _ in range(outer.length)])
    return factor


@rule("Transpose")
def transpose(context: Context) -> list[Axes]:
    """Reorder the axes."""
    axes = context.axes(0)
    order = context.node.attributes.get("perm", range(len(axes) - 1, -1, -1))
    return [[axes[i] for i in order]]


@rule("Squeeze")
def squeeze(context: Context) -> list[Axes]:
    """Drop axes of size 1."""
    axes = context.axes(0)
    given = context.ints(1, "axes")
    if given is None:
        return [[a for a in axes if a.size != UNIT]]
    dropped = {a % len(axes) for a in given}
    return [[a for i, a in enumerate(axes) if i not in dropped]]


@rule("Unsqueeze")
def unsqueeze(context: Context) -> list[Axes]:
    """Insert axes of size 1."""
    rest = list(context.axes(0))
    given = context.ints(1, "axes") or []
    rank = len(rest) + len(given)
    added = {a % rank for a in given}
    return [[frozen(UNIT, "size 1") if i in added else rest.pop(0) for i in range(rank)]]


@rule("Expand")
def expand(context: Context) -> list[Axes]:
    """Repeat axes of size 1; the copies are equal, so they may be permuted freely."""
    return [_grown(context.axes(0), context.dims())]


def _grown(axes: Sequence[Axis], dims: Sequence[Dim]) -> Axes:
    padded: list[Axis | None] = [None] * (len(dims) - len(axes))
    padded.extend(axes)
    return [
        axis if axis is not None and axis.size == dim else copies(dim)
        for axis, dim in zip(padded, dims, strict=True)
    ]


@rule("Tile")
def tile(context: Context) -> list[Axes]:
    """Repeat whole axes: a grid of copies."""
    result: Axes = []
    for axis, dim in zip(context.axes(0), context.dims(), strict=True):
        if axis.size == dim:
            result.append(axis)
        else:
            times = (dim[0] // axis.size[0], dim[1] // axis.size[1])
            result.append(product([copies(times), axis]))
    return [result]


@rule("Concat")
def concat(context: Context) -> list[Axes]:
    """Join one axis, unify the others."""
    operands = [context.axes(i) for i in range(len(context.node.inputs))]
    return [join(context, operands, context.node.attributes["axis"] % len(operands[0]))]


def join(context: Context, operands: Sequence[Axes], axis: int) -> Axes:
    """Return the axes of tensors that are concatenated along one axis."""
    joint = context.broadcast([[a for i, a in enumerate(o) if i != axis] for o in operands])
    parts = [o[axis] for o in operands if o[axis].size != (0, 0)] or [operands[0][axis]]
    joined = concatenation(parts)
    reasons = [p.form.reason for p in parts if isinstance(p.form, Frozen)]
    if len(reasons) == len(parts):
        joined = frozen(joined.size, reasons[0])
    joint.insert(axis, joined)
    context.meet(joint, *([*o[:axis], joined, *o[axis + 1 :]] for o in operands))
    return joint


@rule("Split")
def split(context: Context) -> list[Axes]:
    """Cut one axis into consecutive parts."""
    axes = context.axes(0)
    axis = context.node.attributes.get("axis", 0) % len(axes)
    sizes = [context.dims(i)[axis] for i in range(len(context.node.outputs))]
    return cut(context, axes, axis, sizes)


def cut(context: Context, axes: Sequence[Axis], axis: int, sizes: Sequence[Dim]) -> list[Axes]:
    """Return the axes of the consecutive parts of a tensor along one axis."""
    solver = context.solver
    rows = _rows(solver.factors(axes[axis]), sizes)
    if rows is not None:
        return _cut_grid(context, axes, axis, rows)
    parts = solver.parts(axes[axis], sizes)
    results: list[Axes] = []
    start = 0
    for part in parts:
        rest = [
            part if i == axis else solver.restrict(a, axes[axis], start, part)
            for i, a in enumerate(axes)
        ]
        results.append(rest)
        start += part.length
    return results


def _rows(factors: Sequence[Axis], sizes: Sequence[Dim]) -> list[Dim] | None:
    """Return sizes in rows of a grid, None for an axis that is no grid or is cut across rows."""
    inner = math.prod(f.length for f in factors[1:])
    static = all(is_static(d) for d in (*sizes, *(f.size for f in factors)))
    if len(factors) < 2 or not static or any(size[0] % inner for size in sizes):
        return None
    return [(size[0] // inner, size[0] // inner) for size in sizes]


def _cut_grid(context: Context, axes: Sequence[Axis], axis: int, rows: Sequence[Dim]) -> list[Axes]:
    """Cut a grid between its rows, as the tensor that has its factors for axes is cut."""
    factors = context.solver.factors(axes[axis])
    end = axis + len(factors)
    spread = [*axes[:axis], *factors, *axes[axis + 1 :]]
    return [
        [*part[:axis], product(part[axis:end]), *part[end:]]
        for part in cut(context, spread, axis, rows)
    ]


@rule("Slice")
def slice_rule(context: Context) -> list[Axes]:
    """Cut out a static range, or every n-th index; a dynamic range freezes its axis."""
    axes = list(context.axes(0))
    dims = context.dims()
    bounds = _bounds(context, len(axes))
    for axis, (starts, steps) in bounds.items():
        whole, size = axes[axis], dims[axis]
        if whole.size == size and steps == (1, 1):
            continue
        axes = _sliced(context, axes, axis, starts, steps, size)
    return [axes]


def _bounds(context: Context, rank: int) -> dict[int, tuple[Dim | None, Dim]]:
    """Return start and step under both probes for every sliced axis."""
    node = context.node
    if "starts" in node.attributes:
        starts = [(int(s), int(s)) for s in node.attributes["starts"]]
    else:
        pair = context.values(1)
        if pair is None:
            starts = []
        else:
            starts = [
                (int(a), int(b)) for a, b in zip(np_list(pair[0]), np_list(pair[1]), strict=True)
            ]
    chosen = context.ints(3, "axes")
    count = len(chosen) if chosen is not None else max(len(starts), 1)
    axes = chosen if chosen is not None else list(range(count))
    steps = context.ints(4, "steps") or [1] * count
    filled: Sequence[Dim | None] = starts or [None] * count
    return {
        a % rank: (start, (step, step)) for a, start, step in zip(axes, filled, steps, strict=True)
    }


def np_list(values: object) -> list[int]:
    """Return an integer array of any rank as a flat list."""
    return [int(v) for v in np.atleast_1d(np.asarray(values)).reshape(-1)]


def _sliced(
    context: Context, axes: Axes, axis: int, start: Dim | None, step: Dim, size: Dim
) -> Axes:
    whole, solver = axes[axis], context.solver
    if size == (0, 0):
        return [frozen(size, "empty") if i == axis else a for i, a in enumerate(axes)]
    if not (is_static(whole.size) and is_static(size) and start and is_static(start)):
        solver.freeze(whole, "sliced at a dynamic bound")
        return [
            frozen(size, "sliced at a dynamic bound") if i == axis else a
            for i, a in enumerate(axes)
        ]
    if size[0] == 0:
        return [frozen(size, "empty") if i == axis else a for i, a in enumerate(axes)]
    length, first, stride = whole.length, start[0], step[0]
    first = min(max(first + length if first < 0 else first, 0), length)
    if stride == 1:
        sizes = [n for n in (first, size[0], length - first - size[0])]
        parts = cut(context, axes, axis, [(n, n) for n in sizes if n])
        return parts[1 if first else 0]
    if stride > 1 and length % stride == 0 and first < stride:
        kept, stepped = solver.split(whole, (length // stride, length // stride))
        solver.freeze(stepped, "every n-th index is taken, as for interleaved rotary pairs")
        return [kept if i == axis else a for i, a in enumerate(axes)]
    solver.freeze(whole, "reordered by a Slice")
    return [frozen(size, "reordered by a Slice") if i == axis else a for i, a in enumerate(axes)]


@rule("Pad")
def pad(context: Context) -> list[Axes]:
    """Freeze the padded axes, keep the others."""
    axes = context.axes(0)
    result: Axes = []
    for position, (axis, dim) in enumerate(zip(axes, context.dims(), strict=True)):
        if position in _unpadded(context, len(axes)):
            result.append(axis)
        else:
            context.solver.freeze(axis, "padded")
            result.append(frozen(dim, "padded"))
    return [result]


def _unpadded(context: Context, rank: int) -> set[int]:
    """Return the axes with no padding on either side (padding by -1 and 1 keeps the size)."""
    chosen = [a % rank for a in context.ints(3, "axes") or range(rank)]
    given = context.node.attributes.get("pads")
    pair = (given, given) if given is not None else context.values(1)
    if pair is None:
        return set(range(rank)) - set(chosen)
    moved = np.abs(np.asarray(pair).reshape(2, 2, len(chosen))).sum(axis=(0, 1))
    return set(range(rank)) - {a for a, by in zip(chosen, moved, strict=True) if by}


@rule("Trilu")
def trilu(context: Context) -> list[Axes]:
    """Freeze the two axes whose order makes the triangle."""
    axes = context.axes(0)
    if len(axes) < 2:
        raise CannotFollow("Trilu of a vector")
    for axis in axes[-2:]:
        context.solver.freeze(axis, "triangular mask")
    return [list(axes)]
