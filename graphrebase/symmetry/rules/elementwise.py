"""Rules of element-wise operators: every index keeps its place, operands broadcast."""

from __future__ import annotations

from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import copies, frozen
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, dim_reason, rule


@rule(
    *("Add", "And", "BitShift", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum"),
    *("Where", "Xor"),
)
def broadcast(context: Context) -> list[Axes]:
    """Unify the operands' axes, right-aligned."""
    if {"axis", "broadcast"} & context.node.attributes.keys():
        raise CannotFollow(f"{context.node.op_type} broadcasts as it did before opset 7")
    return [context.broadcast([a for a in context.inputs if a is not None])]


@rule(
    *("Abs", "Cast", "CastLike", "Ceil", "Celu", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign"),
    *("Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
)
def unary(context: Context) -> list[Axes]:
    """Keep every axis."""
    return [list(context.axes(0))]


@rule("Dropout")
def dropout(context: Context) -> list[Axes]:
    """Keep every axis; the mask has the same ones."""
    return [list(context.axes(0)) for _ in context.node.outputs]


@rule("Sin", "Cos")
def rotary_table(context: Context) -> list[Axes]:
    """Freeze: these tables encode positions, whose frequencies mean the same in every model."""
    reason = "rotary pairs: frequencies keep their place"
    for axis in context.axes(0):
        context.solver.freeze(axis, reason)
    return [
        [frozen(axis.size, reason) if is_static(axis.size) else axis for axis in context.axes(0)]
    ]


@rule("ConstantOfShape", "Range", "Shape", "Size")
def computed(context: Context) -> list[Axes]:
    """Return axes that no weight has; equal values may be permuted freely."""
    if context.node.op_type == "ConstantOfShape":
        return [[copies(d) for d in context.dims()]]
    return [[frozen(d, dim_reason(d)) for d in context.dims()]]
