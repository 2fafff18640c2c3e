"""Rules of contractions: MatMul, Gemm, Einsum, Conv."""

from __future__ import annotations

from graphrebase.symmetry.axes import Axis, frozen
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule


@rule("MatMul")
def matmul(context: Context) -> list[Axes]:
    """Contract the last axis of the first with the second-last of the second operand."""
    left, right = list(context.axes(0)), list(context.axes(1))
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else []
    batch = context.broadcast([left[:-2], right[:-2]])
    inner = right[-2] if len(right) > 1 else right[0]
    context.solver.unify(left[-1], inner)
    context.meet(
        [*batch, *rows, left[-1], *columns],
        [*_padded(left[:-2], batch), *rows, left[-1], *[None for _ in columns]],
        [*_padded(right[:-2], batch), *[None for _ in rows], inner, *columns],
    )
    return [[*batch, *rows, *columns]]


def _padded(axes: Axes, joint: Axes) -> list[Axis | None]:
    return [*[None] * (len(joint) - len(axes)), *axes]


@rule("Gemm")
def gemm(context: Context) -> list[Axes]:
    """Contract as MatMul does, with transposed operands and an added bias."""
    left, right = list(context.axes(0)), list(context.axes(1))
    if context.node.attributes.get("transA"):
        left.reverse()
    if context.node.attributes.get("transB"):
        right.reverse()
    context.solver.unify(left[1], right[0])
    context.meet([left[0], left[1], right[1]], [None, right[0], None])
    joint = [left[0], right[1]]
    bias = context.optional(2)
    return [context.broadcast([joint, bias]) if bias is not None else joint]


@rule("Einsum")
def einsum(context: Context) -> list[Axes]:
    """Unify the axes that share a letter."""
    equation = context.node.attributes["equation"].replace(" ", "")
    if "->" not in equation or "." in equation:
        raise CannotFollow("Einsum with an ellipsis or an implicit output")
    terms, output = equation.split("->")
    letters: dict[str, Axis] = {}
    operands = terms.split(",")
    if any(len(set(term)) != len(term) for term in (*operands, output)):
        raise CannotFollow("Einsum takes a diagonal")
    for position, term in enumerate(operands):
        for letter, axis in zip(term, context.axes(position), strict=True):
            known = letters.setdefault(letter, axis)
            if known is not axis:
                context.solver.unify(known, axis)
    for term, axes in zip(operands, context.inputs, strict=True):
        own = dict(zip(term, axes or (), strict=True))
        context.meet(list(letters.values()), [own.get(letter) for letter in letters])
    return [[letters[letter] for letter in output]]


@rule("Conv")
def conv(context: Context) -> list[Axes]:
    """Contract channels; positions and kernel taps keep their place."""
    if context.node.attributes.get("group", 1) != 1:
        raise CannotFollow("grouped convolution")
    data, weight, bias = context.axes(0), context.axes(1), context.optional(2)
    solver = context.solver
    solver.unify(data[1], weight[1])
    context.meet([data[0], data[1], weight[0]], [None, weight[1], None])
    if bias is not None:
        solver.unify(weight[0], bias[0])
    for axis in (*data[2:], *weight[2:]):
        solver.freeze(axis, "pixel positions of a convolution")
    spatial = [frozen(d, "image positions") for d in context.dims()[2:]]
    return [[data[0], weight[0], *spatial]]
