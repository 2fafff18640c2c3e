"""Rule of If, whose branches the graph view has written out: both give the same outputs."""

from __future__ import annotations

from graphrebase.graph.view import is_merge
from graphrebase.symmetry.axes import frozen
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule


@rule("If")
def merge(context: Context) -> list[Axes | None]:
    """Unify the outputs of the two branches; an axis of two sizes keeps its order."""
    if not is_merge(context.node):
        raise CannotFollow("branches that could not be written out")
    count = len(context.node.outputs)
    return [_merged(context, i, 1 + i, 1 + count + i) for i in range(count)]


def _merged(context: Context, output: int, then: int, otherwise: int) -> Axes | None:
    left, right = context.axes(then), context.axes(otherwise)
    if len(left) != len(right) or context.shapes.shape(context.node.outputs[output]) is None:
        for axis in (*left, *right):
            context.solver.freeze(axis, "branches with outputs of different rank or type")
        return None
    equal = [i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a.size == b.size]
    joint = context.broadcast([[left[i] for i in equal], [right[i] for i in equal]])
    found = dict(zip(equal, joint, strict=True))
    dims, reason = context.dims(output), "its size depends on the branch taken"
    for i in range(len(left)):
        if i not in found:
            context.solver.freeze(left[i], reason)
            context.solver.freeze(right[i], reason)
            found[i] = frozen(dims[i], reason)
    return [found[i] for i in range(len(left))]
