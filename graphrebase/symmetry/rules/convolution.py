"""Rules of convolutions, pooling and resampling: channels are contracted, positions keep place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import UNIT, Axis, frozen, product
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule

_TAPS = "pixel positions of a convolution"
_POSITIONS = "image positions"


@rule("Conv")
def conv(context: Context) -> list[Axes]:
    """Contract channels, group by group; positions and kernel taps keep their place."""
    data, weight, bias = context.axes(0), context.axes(1), context.optional(2)
    count = int(context.node.attributes.get("group", 1))
    solver = context.solver
    if count == 1:
        solver.unify(data[1], weight[1])
        context.meet([data[0], data[1], weight[0]], [None, weight[1], None])
        channels = weight[0]
    else:
        channels = _grouped(context, data, weight, count)
    if bias is not None:
        solver.unify(channels, bias[0])
    for axis in weight[2:]:
        solver.freeze(axis, _TAPS)
    if _pointwise(context, weight):
        return [[data[0], channels, *data[2:]]]
    return [[data[0], channels, *_positions(context, data)]]


def _grouped(context: Context, data: Axes, weight: Axes, count: int) -> Axis:
    """Contract the channels of each group with its own kernels; returns the output channels.

    Input channels are a grid (groups, channels of a group), output channels likewise; the weight
    is (groups * outputs of a group, channels of a group, taps).
    """
    solver = context.solver
    group, inside = _grid(context, data[1], count)
    kernels, outputs = _grid(context, weight[0], count)
    solver.unify(group, kernels)
    solver.unify(inside, weight[1])
    joint = [data[0], group, inside, outputs]
    context.meet(joint, [None, kernels, weight[1], outputs])
    return product([group, outputs])


def _grid(context: Context, axis: Axis, count: int) -> tuple[Axis, Axis]:
    """Return (group axis, axis inside each group) of channels."""
    if not is_static(axis.size) or axis.length % count:
        raise CannotFollow("groups of a convolution that do not divide its channels")
    if axis.length == count:
        return axis, frozen(UNIT, "size 1")
    return context.solver.split(axis, (count, count))


def _pointwise(context: Context, weight: Axes) -> bool:
    """Tell whether a convolution treats every position alike and alone (1x1)."""
    attributes = context.node.attributes
    steps = [*attributes.get("strides", ()), *attributes.get("dilations", ())]
    pads = attributes.get("pads", ())
    return all(a.size == UNIT for a in weight[2:]) and set(steps) <= {1} and not any(pads)


def _positions(context: Context, data: Sequence[Axis]) -> Axes:
    for axis in data[2:]:
        context.solver.freeze(axis, _TAPS)
    return [frozen(d, _POSITIONS) for d in context.dims()[2:]]


def _is_alone(context: Context, place: int, rank: int) -> bool:
    """Tell whether the windows of a pooling have one index along a spatial axis, and keep all."""
    attributes = context.node.attributes
    pads = attributes.get("pads", [0] * 2 * rank)
    step = attributes.get("strides", [1] * rank)[place]
    sizes = (attributes["kernel_shape"][place], step, pads[place], pads[rank + place])
    return sizes == (1, 1, 0, 0)


@rule("ConvTranspose")
def transposed_conv(context: Context) -> list[Axes]:
    """Contract channels of a weight stored as (in, out, taps)."""
    if context.node.attributes.get("group", 1) != 1:
        raise CannotFollow("grouped transposed convolution")
    data, weight, bias = context.axes(0), context.axes(1), context.optional(2)
    context.solver.unify(data[1], weight[0])
    context.meet([data[0], data[1], weight[1]], [None, weight[0], None])
    if bias is not None:
        context.solver.unify(weight[1], bias[0])
    for axis in weight[2:]:
        context.solver.freeze(axis, _TAPS)
    return [[data[0], weight[1], *_positions(context, data)]]


@rule("MaxPool", "AveragePool", "LpPool")
def pool(context: Context) -> list[Axes]:
    """Keep batch and channels; positions in windows keep their place.

    Funnel pools tokens as an image of tokens by channels, in windows of one channel.
    """
    if any(context.node.outputs[1:]):
        raise CannotFollow("the indices of a pooling number all channels")
    data, dims = context.axes(0), context.dims()
    result = data[:2]
    for place, axis in enumerate(data[2:]):
        if _is_alone(context, place, len(data) - 2):
            result.append(axis)
        else:
            context.solver.freeze(axis, _TAPS)
            result.append(frozen(dims[2 + place], _POSITIONS))
    return [result]


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(context: Context) -> list[Axes]:
    """Drop all but batch and channels."""
    axes = context.axes(0)
    context.reduce(axes, range(2, len(axes)))
    return [[*axes[:2], *[frozen(UNIT, "size 1") for _ in axes[2:]]]]


@rule("Resize")
def resize(context: Context) -> list[Axes]:
    """Keep the axes that are not scaled; positions that are interpolated keep their place."""
    if context.node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise CannotFollow("Resize that crops")
    axes, dims, factors = context.axes(0), context.dims(), _scales(context)
    for parameter in context.inputs[1:]:
        for axis in parameter or ():
            context.solver.freeze(axis, "one number per axis")
    reason = "positions are interpolated"
    result: Axes = []
    for position, (axis, dim) in enumerate(zip(axes, dims, strict=True)):
        if axis.size == dim and factors.get(position, 1.0) == 1.0:
            result.append(axis)
        else:
            context.solver.freeze(axis, reason)
            result.append(frozen(dim, reason))
    return [result]


def _scales(context: Context) -> dict[int, float | None]:
    """Return the scale of every axis given by scales; None where it is computed at run time.

    An axis given by its size is scaled exactly where its size changes.
    """
    name = context.node.input(2)
    value = context.shapes.static_value(name) if name else None
    rank = len(context.axes(0))
    chosen = [int(a) % rank for a in context.node.attributes.get("axes", range(rank))]
    if not name or context.node.input(3):
        return {}
    if value is None or value.size != len(chosen):
        return dict.fromkeys(chosen)
    factors = np.asarray(value, np.float64).reshape(-1)
    return {axis: float(factor) for axis, factor in zip(chosen, factors, strict=True)}


@rule("DepthToSpace")
def depth_to_space(context: Context) -> list[Axes]:
    """Move blocks of channels to positions: the block index keeps its place, channels stay."""
    data, solver = context.axes(0), context.solver
    block = int(context.node.attributes["blocksize"]) ** 2
    if not is_static(data[1].size):
        raise CannotFollow("DepthToSpace with a dynamic number of channels")
    channels = data[1].length // block
    if context.node.attributes.get("mode", b"DCR") in (b"CRD", "CRD"):
        kept, place = solver.split(data[1], (channels, channels))
    else:
        place, kept = solver.split(data[1], (block, block))
    solver.freeze(place, _POSITIONS)
    context.scopes.append([data[0], kept])
    return [[data[0], kept, *_positions(context, data)]]
