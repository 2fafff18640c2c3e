"""Rules of normalisations, Softmax and reductions: equivariant along what they reduce."""

from __future__ import annotations

from collections.abc import Iterable

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


@rule("InstanceNormalization")
def instance_normalization(context: Context) -> list[Axes]:
    """Normalise every channel over its positions; gain and bias belong to channels."""
    axes = context.axes(0)
    _per_channel(context, axes[1], range(1, 3))
    context.reduce(axes, range(2, len(axes)))
    return [list(axes)]


@rule("BatchNormalization")
def batch_normalization(context: Context) -> list[Axes]:
    """Scale and shift channels by constants (inference)."""
    if context.node.attributes.get("training_mode"):
        raise CannotFollow("BatchNormalization in training mode")
    axes = context.axes(0)
    _per_channel(context, axes[1], range(1, 5))
    return [list(axes)]


def _per_channel(context: Context, channels: Axis, positions: Iterable[int]) -> None:
    for position in positions:
        parameter = context.optional(position)
        if parameter is not None:
            context.solver.unify(channels, parameter[0])


@rule("GroupNormalization")
def group_normalization(context: Context) -> list[Axes]:
    """Normalise groups of channels over channels and positions.

    Gain and bias belong to the groups in opset 18, to the channels from opset 21 on.
    """
    axes = context.axes(0)
    channels, count = axes[1], int(context.node.attributes["num_groups"])
    group, inside = _groups(context, channels, count)
    for position in (1, 2):
        parameter = context.axes(position)[0]
        owner = channels if parameter.size == channels.size else group
        context.solver.unify(owner, parameter)
    grid = [axes[0], group, inside, *axes[2:]]
    context.reduce(grid, range(2, len(grid)))
    return [list(axes)]


def _groups(context: Context, channels: Axis, count: int) -> tuple[Axis, Axis]:
    """Return channels as a grid (groups, channels of a group)."""
    if count == 1:
        return _unit(), channels
    if count == channels.length:
        return channels, _unit()
    return context.solver.split(channels, (count, count))


@rule("LpNormalization")
def lp_normalization(context: Context) -> list[Axes]:
    """Divide by the length along one axis, which nothing else may depend on."""
    axes = context.axes(0)
    context.reduce(axes, [context.node.attributes.get("axis", -1)])
    return [list(axes)]


@rule("MeanVarianceNormalization")
def mean_variance_normalization(context: Context) -> list[Axes]:
    """Centre and scale over some axes, which nothing else may depend on."""
    axes = context.axes(0)
    context.reduce(axes, context.node.attributes.get("axes", (0, 2, 3)))
    return [list(axes)]


@rule("CumSum")
def cumulative_sum(context: Context) -> list[Axes]:
    """Freeze the axis whose index order shows in the result; its indices are mixed."""
    axes = context.axes(0)
    given = context.ints(1, "axis")
    axis = (given[0] if given else 0) % len(axes)
    context.solver.freeze(axes[axis], "the order of its indices shows in CumSum")
    context.reduce(axes, [axis])
    return [list(axes)]


@rule("ArgMax", "ArgMin")
def best(context: Context) -> list[Axes]:
    """Give the number of the best index: a pointer to the axis."""
    axes = context.axes(0)
    axis = context.node.attributes.get("axis", 0) % len(axes)
    keep = context.node.attributes.get("keepdims", 1)
    context.reduce(axes, [axis])
    context.point(0, axes[axis])
    return [[_unit() if i == axis else a for i, a in enumerate(axes) if keep or i != axis]]


#: What keeps equal scores equal.
_KEEPS_TIES = {
    *("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Softmax"),
    *("LogSoftmax", "Sigmoid", "Tanh", "QuantizeLinear", "Mul", "Div"),
}


def _may_tie(context: Context) -> bool:
    """Tell whether the scores are 8-bit numbers, of which many are equal."""
    node = context.producers.get(context.node.input(0))
    while node is not None and node.op_type in _KEEPS_TIES:
        node = context.producers.get(node.input(0))
    return node is not None and node.op_type == "DequantizeLinear"


@rule("TopK")
def top(context: Context) -> list[Axes]:
    """Give the best scores in order of rank, and the numbers of their indices: pointers."""
    if _may_tie(context):
        raise CannotFollow("TopK takes the first of equal scores, and 8-bit scores are often equal")
    axes = context.axes(0)
    axis = context.node.attributes.get("axis", -1) % len(axes)
    if not context.node.attributes.get("sorted", 1):
        raise CannotFollow("TopK in no particular order")
    context.reduce(axes, [axis])
    context.point(1, axes[axis])
    rank = frozen(context.dims()[axis], "ranked by score")
    kept = [rank if i == axis else a for i, a in enumerate(axes)]
    return [kept, list(kept)]
