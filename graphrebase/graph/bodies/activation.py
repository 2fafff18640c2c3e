"""Bodies of activations that swallowed a bias, a gate or a skip."""

from __future__ import annotations

from graphrebase.graph.bodies.table import Call, CannotExpand, body

#: Activations that a fused contraction may end in, by the name that onnxruntime gives.
PLAIN = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Elu", "HardSigmoid", "Softplus", "Softsign")


def activate(call: Call, value: str, name: str, out: str = "") -> str:
    """Add the activation that a fused contraction ends in."""
    if name not in PLAIN:
        raise CannotExpand(f"activation {name} of {call.node.op_type} is unknown")
    return call.emit(name, value, out=out)


@body("BiasGelu", "FastGelu", "Gelu")
def biased_gelu(call: Call) -> None:
    """Gelu(x + b); FastGelu is its tanh form, whose bias is optional."""
    value = call.input(0)
    if call.optional(1):
        value = call.emit("Add", value, call.input(1))
    call.emit("Gelu", value, out=call.output(0))


@body("QuickGelu")
def quick_gelu(call: Call) -> None:
    """Multiply x by Sigmoid(alpha * x); with alpha = 1 it is SiLU."""
    value, alpha = call.input(0), call.attribute("alpha", 1.702)
    scaled = value if alpha == 1 else call.emit("Mul", value, call.scalar(alpha, value))
    call.emit("Mul", value, call.emit("Sigmoid", scaled), out=call.output(0))


@body("BiasSplitGelu")
def bias_split_gelu(call: Call) -> None:
    """Add a bias, halve the features, multiply the first half by Gelu of the second."""
    biased = call.emit("Add", call.input(0), call.input(1))
    left, right = call.split(biased, None, 2, -1)
    call.emit("Mul", left, call.emit("Gelu", right), out=call.output(0))


@body("BiasAdd")
def bias_add(call: Call) -> None:
    """Add a bias and a skip."""
    biased = call.emit("Add", call.input(0), call.input(1))
    call.emit("Add", biased, call.input(2), out=call.output(0))


@body("BiasSoftmax")
def bias_softmax(call: Call) -> None:
    """Softmax of scores plus a mask, over the last axis."""
    value = call.input(0)
    if call.attribute("axis", 1) % call.rank(value) != call.rank(value) - 1:
        raise CannotExpand("BiasSoftmax over several axes")
    call.emit("Softmax", call.emit("Add", value, call.input(1)), out=call.output(0), axis=-1)
