"""The axes that a constant starts with: as free as its shape and its uses allow.

Rules only ever tie axes together, so what may differ from index to index must differ at the start.

1. A weight with heads (or groups, or experts) as an axis of its own, read by Einsum or by a MatMul
   with a batch of weights: inside each head, indices may move by themselves.
2. A matrix that is cut into static parts before use, by Slice or Split (the packed projection of
   torch.nn.MultiheadAttention, when queries and keys come from different streams): every part has
   rows and columns of its own.
3. A computed constant whose entries are equal along an axis allows any order along it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.equation import Equation
from graphrebase.graph.view import Slot
from graphrebase.symmetry.axes import Axis, fibre, frozen, leaf, product
from graphrebase.symmetry.classes import MAX_MEMBERS
from graphrebase.symmetry.registry import Axes
from graphrebase.symmetry.solver import Solver

#: A constant is not taken for one cut into more parts than this.
_MAX_PARTS = 64

#: What may turn a part of a matrix before it is multiplied.
_TURNS = {"Cast", "Squeeze", "Transpose", "Unsqueeze"}

#: Arrays longer than this are not searched for equal entries.
_EQUAL_LIMIT = 1 << 16


def fresh_axes(shape: Sequence[int]) -> Axes:
    """Return an independent free axis per dimension."""
    return [leaf(n) if n > 1 else frozen((n, n), "size 1") for n in shape]


def initial_axes(graph: Graph, shapes: ShapeTable, solver: Solver, name: str) -> Axes:
    """Return the axes of a constant before any rule has seen it."""
    shape = graph.constants[name].shape
    parts = _part_size(graph, shapes, name)
    if parts:
        return _cut_axes(shape, parts)
    if len(shape) > 2:
        for slot in readers(graph, name):
            node, position = slot.node.stored(slot.position) or (slot.node, slot.position)
            groups = _index_groups(node, position, len(shape))
            if groups:
                return _dependent_axes(solver, shape, groups)
    return fresh_axes(shape)


def readers(graph: Graph, name: str) -> list[Slot]:
    """Return the uses of a constant, in the type that it is stored in or cast to another."""
    found = []
    for slot in graph.users(name):
        cast = slot.node.op_type == "Cast" and not slot.node.domain
        found += readers(graph, slot.node.outputs[0]) if cast else [slot]
    return found


def value_axes(values: Sequence[np.ndarray], fixed: Axes) -> Axes:
    """Return ``fixed``, free along every axis along which known values are all equal.

    Args:
        values: the array under each shape probe.
        fixed: what an axis is otherwise.
    """
    result = list(fixed)
    for i, axis in enumerate(fixed):
        static = axis.size[0] == axis.size[1] > 1
        if static and all(v.size <= _EQUAL_LIMIT and _equal_along(v, i) for v in values):
            result[i] = leaf(axis.length, copies=True)
    return result


def _equal_along(value: np.ndarray, axis: int) -> bool:
    return value.ndim > axis and bool((value == value.take([0], axis=axis)).all())


def _index_groups(node: Node, position: int, rank: int) -> list[list[int]]:
    """Return lists of axes of a weight; the later ones of a list depend on the earlier ones.

    All lists begin with the batch axes, which the weight shares with the other operand and the
    result; the summed axes and the axes of the result follow.
    """
    if node.domain or len(node.inputs) != 2:
        return []
    if node.op_type == "MatMul":
        batch = list(range(rank - 2))
        return [[*batch, rank - 2], [*batch, rank - 1]]
    if node.op_type != "Einsum":
        return []
    equation = Equation.parse(node.attributes["equation"])
    term, other = equation.operands[position], equation.operands[1 - position]
    if "." in term or len(set(term)) != rank:
        return []
    batch = [i for i, c in enumerate(term) if c in other and c in equation.output]
    summed = [i for i, c in enumerate(term) if c in other and c not in equation.output]
    outer = [i for i, c in enumerate(term) if c not in other]
    return [[*batch, *summed], [*batch, *outer]]


def _dependent_axes(solver: Solver, shape: Sequence[int], groups: Sequence[Sequence[int]]) -> Axes:
    axes = fresh_axes(shape)
    done: set[int] = set()
    for group in groups:
        for place, i in enumerate(group):
            over = [axes[j] for j in group[:place] if shape[j] > 1]
            if i not in done and shape[i] > 1:
                axes[i] = _dependent(solver, over, shape[i])
            done.add(i)
    return axes


def _dependent(solver: Solver, over: Sequence[Axis], size: int) -> Axis:
    """Return an axis with an order of its own at every index of other axes."""
    if not over or math.prod(axis.length for axis in over) > MAX_MEMBERS:
        return leaf(size)
    outer, rest = over[0], over[1:]
    members = [
        _dependent(solver, [solver.at(axis, outer, i) for axis in rest], size)
        for i in range(outer.length)
    ]
    return fibre(outer, members)


def _part_size(graph: Graph, shapes: ShapeTable, name: str) -> int:
    """Return the size of the equal parts that all uses cut a matrix's first axis into, or 0.

    Parts that meet one value have their columns in common: nothing to tell apart.
    """
    shape = graph.constants[name].shape
    bounds: set[int] = set()
    for slot in readers(graph, name):
        found = _cut_bounds(slot.node, shapes) if slot.position == 0 else None
        if found is None:
            return 0
        bounds.update(found)
    inside = {b for b in bounds if shape and 0 < b < shape[0]}
    if not inside or len(shape) < 2 or _meet_one_value(graph, name):
        return 0
    size = reduce(math.gcd, inside, shape[0])
    return size if size > 1 and shape[0] // size <= _MAX_PARTS else 0


def _cut_bounds(node: Node, shapes: ShapeTable) -> list[int] | None:
    """Return where a Slice or Split cuts the first axis at static places, else None."""
    if node.domain:
        return None
    return {"Slice": _slice_bounds, "Split": _split_bounds}.get(node.op_type, _no_bounds)(
        node, shapes
    )


def _no_bounds(_node: Node, _shapes: ShapeTable) -> None:
    return None


def _slice_bounds(node: Node, shapes: ShapeTable) -> list[int] | None:
    if len(node.inputs) < 3:
        return None
    given = [shapes.static_value(n) for n in node.inputs[1:]]
    numbers = [int(v.reshape(-1)[0]) for v in given if v is not None and v.size == 1]
    if len(numbers) < len(given):
        return None
    defaults = (0, 1)  # axis, step
    start, end, axis, step = (*numbers, *defaults[len(numbers) - 2 :])
    return [start, end] if axis == 0 and step == 1 and start >= 0 and end >= 0 else None


def _split_bounds(node: Node, shapes: ShapeTable) -> list[int] | None:
    parts = [shapes.shape(name) for name in node.outputs]
    if node.attributes.get("axis", 0) != 0 or not all(parts):
        return None
    return list(accumulate(part[0][0] for part in parts if part))


def _meet_one_value(graph: Graph, name: str) -> bool:
    """Tell whether all parts of a matrix are multiplied with one and the same value."""
    stack = [out for slot in readers(graph, name) for out in slot.node.outputs if out]
    met: set[str] = set()
    while stack:
        part = stack.pop()
        for slot in graph.users(part):
            node = slot.node
            if node.op_type in _TURNS:
                stack.append(node.outputs[0])
            elif node.op_type in ("Gemm", "MatMul") and slot.position < 2:
                met.add(node.inputs[1 - slot.position])
            else:
                return False
    return len(met) == 1


def _cut_axes(shape: Sequence[int], size: int) -> Axes:
    """Return axes of a constant whose parts along the first axis have nothing in common."""
    count = shape[0] // size
    place = frozen((count, count), "position in a packed weight")
    rows = product([place, fibre(place, [leaf(size) for _ in range(count)])])
    columns = [
        fibre(place, [leaf(n) for _ in range(count)]) if n > 1 else frozen((n, n), "size 1")
        for n in shape[1:]
    ]
    return [rows, *columns]
