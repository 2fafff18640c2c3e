"""Rules of quantised operators: scales and zero points move with the axis they belong to.

Scaling by channel is exact under every permutation that moves the scales along. Scales by block
tie an axis to a grid (block, place inside the block): whole blocks may change places. Inside one,
numbers keep theirs: they may share a byte, and hundreds of blocks with an order of their own are
no axis that anything can be aligned by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphrebase.graph.quantized import FORMS, Form, Operand, float_node, form_of
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import UNIT, Axis, frozen, leaf, product
from graphrebase.symmetry.registry import RULES, Axes, CannotFollow, Context, rule

_MS = "com.microsoft"


def _unit() -> Axis:
    return frozen(UNIT, "size 1")


def _is_single(axes: Axes) -> bool:
    return all(axis.size == UNIT for axis in axes)


def _along(context: Context, axes: Axes, parameter: Axes | None, channel: int | None) -> None:
    """Tie a vector of scales or zero points to the axis it runs along."""
    if parameter is None or _is_single(parameter):
        return
    if channel is None:
        raise CannotFollow(f"{context.node.op_type} with several scales for one operand")
    placed = parameter
    if len(parameter) == 1:
        place = channel % len(axes)
        placed = [parameter[0] if i == place else _unit() for i in range(len(axes))]
    if len(placed) != len(axes):
        raise CannotFollow(f"{context.node.op_type} with scales of an unexpected rank")
    context.broadcast([axes, placed])


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain=_MS)
def linear(context: Context) -> list[Axes]:
    """Scale per tensor, along one axis, or in blocks of one axis."""
    axes, attributes = context.axes(0), context.node.attributes
    parameters = [p for p in (context.optional(1), context.optional(2)) if p is not None]
    channel = attributes.get("axis", 1)
    if len(axes) <= 1:
        channel = 0
    block = attributes.get("block_size", 0)
    for parameter in parameters:
        if block:
            _blocks(context, axes, parameter, channel % len(axes), block)
        else:
            _along(context, axes, parameter, channel)
    return [list(axes)]


def _blocks(context: Context, axes: Axes, parameter: Axes, along: int, size: int) -> None:
    """Tie scales (.., number of blocks, ..) to the blocks of one axis, and to the other axes."""
    if len(parameter) != len(axes):
        raise CannotFollow("scales by block of an unexpected rank")
    head = _block_axis(context, axes[along], parameter[along], size)
    joint = [head if i == along else a for i, a in enumerate(axes)]
    context.broadcast([joint, parameter])


def _block_axis(context: Context, axis: Axis, blocks: Axis, size: int) -> Axis:
    """Return the axis of whole blocks inside ``axis``; a last block that is shorter freezes it."""
    count = blocks.length
    if not (is_static(axis.size) and is_static(blocks.size)) or axis.length != count * size:
        context.solver.freeze(axis, f"blocks of {size} share a scale and do not divide the axis")
        return frozen(blocks.size, "blocks that do not divide the axis")
    if count == 1:
        return _unit()
    head = leaf(count)
    context.solver.unify(axis, product([head, _inside(size)]))
    return head


def _place(size: int) -> str:
    return f"numbers keep their place in a block of {size} with one scale"


def _inside(size: int) -> Axis:
    return frozen((size, size), _place(size))


@rule("DynamicQuantizeLinear")
def dynamic(context: Context) -> list[Axes]:
    """Quantise with one scale from the extremes of the whole tensor, which have no order."""
    return [list(context.axes(0)), [], []]


def as_float(context: Context) -> Sequence[Axes | None]:
    """Follow the float operator that this one stands for; scales run along its operands."""
    form = form_of(context.node)
    assert form is not None
    inner = RULES.get(("", form.op_type))
    if inner is None:
        raise CannotFollow(f"operator {form.op_type} has no rule")
    _check_form(context, form)
    for operand in form.operands:
        _tie(context, operand)
    for position in form.result:
        _along(context, [], context.optional(position), None)
    inputs = [context.optional(operand.position) for operand in form.operands]
    while inputs and inputs[-1] is None:
        inputs.pop()
    call = float_node(context.node, form)
    outputs = inner(
        Context(call, inputs, context.shapes, context.solver, context.scopes, context.opset)
    )
    bias = context.optional(form.bias) if form.bias >= 0 else None
    first = outputs[0]
    if bias is None or first is None:
        return outputs
    return [context.broadcast([first, bias])]


def _check_form(context: Context, form: Form) -> None:
    if context.node.attributes.get("channels_last"):
        raise CannotFollow(f"{context.node.op_type} with channels last")


def _tie(context: Context, operand: Operand) -> None:
    axes = context.optional(operand.position)
    for position in (operand.scale, operand.zero_point):
        parameter = context.optional(position) if position >= 0 else None
        if parameter is not None and axes is not None:
            _along(context, axes, parameter, operand.channel)


for _domain, _op_type in (*FORMS, (_MS, "QLinearConcat")):
    rule(_op_type, domain=_domain)(as_float)


@rule("MatMulNBits", domain=_MS)
def matmul_nbits(context: Context) -> list[Axes]:
    """Contract with a weight of a few bits, B (N, blocks, bytes of a block).

    N moves with its scales and zero points, K in whole blocks.
    """
    attributes, solver = context.node.attributes, context.solver
    data, stored = context.axes(0), context.axes(1)
    if len(stored) != 3:
        raise CannotFollow("MatMulNBits with a weight that is not (N, blocks, bytes)")
    out, blocks, packed = stored
    size, width = attributes["block_size"], attributes["K"]
    _freeze(context, [packed], _place(size))
    inner = product([blocks, _inside(size)])
    if context.optional(4) is not None:
        reason = "every input channel has a group index"
        inner = _freeze(context, [blocks, *context.axes(4)], reason, width)
    elif inner.length != width:
        inner = _freeze(context, [blocks], f"the last block of {size} is padded", width)
    _nbits_parameters(context, out, blocks, attributes.get("bits", 4))
    rows = data[:-1]
    solver.unify(data[-1], inner)
    context.meet([*rows, data[-1], out], [*(None for _ in rows), inner, out])
    bias = context.optional(5)
    joint = [*rows, out]
    return [context.broadcast([joint, bias]) if bias is not None else joint]


def _freeze(context: Context, axes: Sequence[Axis], reason: str, width: int = 1) -> Axis:
    """Freeze axes; returns a frozen one of another size for the same reason."""
    for axis in axes:
        context.solver.freeze(axis, reason)
    return frozen((width, width), reason)


def _nbits_parameters(context: Context, out: Axis, blocks: Axis, bits: int) -> None:
    """Tie scales (N, blocks) and zero points, packed or not, to N and to the blocks."""
    _tie_grid(context, context.axes(2), out, blocks)
    points = context.optional(3)
    if points is not None:
        count = math.prod(axis.length for axis in points) // out.length
        _tie_grid(context, points, out, _point_axis(context, blocks, count, bits))


def _tie_grid(context: Context, axes: Axes, rows: Axis, columns: Axis) -> None:
    """Tie an array of (rows, columns), which may be stored flat."""
    if len(axes) == 1:
        context.solver.unify(axes[0], product([rows, columns]))
    elif len(axes) == 2:
        context.broadcast([[rows, columns], axes])
    else:
        raise CannotFollow(f"{context.node.op_type} with scales of an unexpected rank")


def _point_axis(context: Context, blocks: Axis, count: int, bits: int) -> Axis:
    """Return the axis of zero points: one per block, or several blocks in every byte."""
    if count == blocks.length:
        return blocks
    per_byte = 8 // bits
    reason = f"the zero points of {per_byte} blocks share a byte"
    if count * per_byte != blocks.length:
        context.solver.freeze(blocks, reason)
        return frozen((count, count), reason)
    byte, inside = (_unit(), blocks)
    if count > 1:
        byte, inside = context.solver.split(blocks, (count, count))
    context.solver.freeze(inside, reason)
    return byte


@rule("GatherBlockQuantized", domain=_MS)
def gather_blocks(context: Context) -> list[Axes]:
    """Look up rows of a table whose other axis is scaled by block, perhaps two numbers a byte."""
    attributes, data, scales = context.node.attributes, context.axes(0), context.axes(2)
    rows = attributes.get("gather_axis", 0) % len(data)
    along = attributes.get("quantize_axis", 1) % len(data)
    size, bits = attributes.get("block_size", 128), attributes.get("bits", 4)
    indices = context.axes(1)
    shape = [*data[:rows], *indices, *data[rows + 1 :]]
    place = along + (len(indices) - 1 if along > rows else 0)
    count = context.dims()[place][0] // data[along].length
    if rows == along or len(scales) != len(data):
        raise CannotFollow("GatherBlockQuantized with scales along the rows")
    context.solver.freeze(data[rows], "rows are looked up by index")
    blocks = _block_axis(context, data[along], scales[along], size // count)
    points = context.optional(3)
    if points is not None:
        point = _point_axis(context, blocks, points[along].length, bits)
        context.broadcast([[point if i == along else a for i, a in enumerate(data)], points])
    context.broadcast([[blocks if i == along else a for i, a in enumerate(data)], scales])
    if count > 1:
        shape[place] = product([blocks, _inside(size)])
        if blocks.size == UNIT:
            context.solver.freeze(data[along], _place(size))
    return [shape]


@rule("MatMulBnb4", "MatMulFpQ4", "QMoE", domain=_MS)
def opaque(context: Context) -> list[Axes]:
    """Freeze: the format packs rows and columns into one run of blocks."""
    raise CannotFollow(f"{context.node.op_type} packs its weights in blocks across rows")
