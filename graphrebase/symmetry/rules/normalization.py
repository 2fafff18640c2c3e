"""Rules of normalisations, Softmax and reductions: equivariant along what they reduce."""

from __future__ import annotations

from graphrebase.graph import Dim
from graphrebase.symmetry.axes import UNIT, Axis, frozen
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule


def _unit() -> Axis:
    return frozen(UNIT, "size 1")


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(context: Context) -> list[Axes]:
    """Keep every axis; nothing else may depend on those that are normalised.

    Before opset 13 the default is axis 1, and all axes from there on are normalised as one.
    """
    axes = context.axes(0)
    if context.opset >= 13:
        reduced = [context.node.attributes.get("axis", -1)]
    else:
        reduced = list(range(context.node.attributes.get("axis", 1) % len(axes), len(axes)))
    context.reduce(axes, reduced)
    return [list(axes)]


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(context: Context) -> list[Axes]:
    """Normalise over the trailing axes; gain and bias have the same ones."""
    axes = context.axes(0)
    first = context.node.attributes.get("axis", -1) % len(axes)
    trailing = list(axes[first:])
    for position in (1, 2):
        parameter = context.optional(position)
        if parameter is not None:
            context.broadcast([axes, parameter])
    context.reduce(axes, range(first, len(axes)))
    statistics = [*axes[:first], *[_unit() for _ in trailing]]
    return [list(axes), statistics, list(statistics)][: len(context.node.outputs)]


@rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
def reduce(context: Context) -> list[Axes]:
    """Drop the reduced axes."""
    axes = context.axes(0)
    given = context.ints(1, "axes")
    if given is None and context.node.attributes.get("noop_with_empty_axes"):
        return [list(axes)]
    dropped = {a % len(axes) for a in (range(len(axes)) if given is None else given)}
    context.reduce(axes, sorted(dropped))
    keep = context.node.attributes.get("keepdims", 1)
    return [
        [_unit() if i in dropped else a for i, a in enumerate(axes) if keep or i not in dropped]
    ]


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(context: Context) -> list[Axes]:
    """Drop all but batch and channels."""
    axes = context.axes(0)
    return [[*axes[:2], *[_unit() for _ in axes[2:]]]]


@rule("ArgMax", "ArgMin", "CumSum", "TopK")
def ordered(context: Context) -> list[Axes]:
    """Freeze the axis whose index order shows in the result."""
    axes = context.axes(0)
    attributes = context.node.attributes
    if context.node.op_type == "CumSum":
        given = context.ints(1, "axis")
        axis = given[0] if given else 0
    else:
        axis = attributes.get("axis", -1 if context.node.op_type == "TopK" else 0)
    axis %= len(axes)
    reason = f"the order of its indices shows in {context.node.op_type}"
    context.solver.freeze(axes[axis], reason)
    dims = context.dims()
    if len(dims) == len(axes):
        kept = [frozen(_dim(dims, i), reason) if i == axis else a for i, a in enumerate(axes)]
    elif len(dims) == len(axes) - 1:
        kept = [a for i, a in enumerate(axes) if i != axis]
    else:
        raise CannotFollow(f"{context.node.op_type} with an unexpected output rank")
    return [list(kept) for _ in context.node.outputs]


def _dim(dims: tuple[Dim, ...], index: int) -> Dim:
    return dims[index]
