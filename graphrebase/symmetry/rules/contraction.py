"""Rules of contractions: MatMul, Gemm, Einsum, Conv."""

from __future__ import annotations

from graphrebase.graph.equation import Equation
from graphrebase.symmetry.axes import Axis
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
    axes = [context.axes(i) for i in range(len(context.node.inputs))]
    equation = Equation.parse(context.node.attributes["equation"]).spelt_out(
        [len(operand) for operand in axes]
    )
    if any(len(set(term)) != len(term) for term in (*equation.operands, equation.output)):
        raise CannotFollow("Einsum takes a diagonal")
    owned = [dict(zip(t, a, strict=True)) for t, a in zip(equation.operands, axes, strict=True)]
    letters = list(dict.fromkeys("".join(equation.operands)))
    columns = [[own[letter] for own in owned if letter in own] for letter in letters]
    context.tie(columns)
    joint = [column[0] for column in columns]
    for own in owned:
        context.meet(joint, [own.get(letter) for letter in letters])
    place = {letter: axis for letter, axis in zip(letters, joint, strict=True)}
    return [[place[letter] for letter in equation.output]]
