"""Bodies of convolutions that swallowed a sum or an activation."""

from __future__ import annotations

from graphrebase.graph.bodies.activation import activate
from graphrebase.graph.bodies.table import Call, CannotExpand, body

_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


@body("FusedConv")
def fused_conv(call: Call) -> None:
    """Conv(x, W, b), plus a skip, then an activation."""
    kept = {name: call.attribute(name) for name in _ATTRIBUTES}
    skip, activation = call.optional(3), call.attribute("activation", "")
    inputs = [name for name in (call.input(0), call.input(1), call.optional(2))]
    while not inputs[-1]:
        inputs.pop()
    last = call.output(0)
    value = call.emit("Conv", *inputs, out="" if skip or activation else last, **kept)
    if skip:
        value = call.emit("Add", value, skip, out="" if activation else last)
    if activation:
        activate(call, value, activation, last)


@body("Conv", "ReorderInput", "ReorderOutput", "Upsample", domain="com.microsoft.nchwc")
@body("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", domain="com.microsoft.nchwc")
def blocked(call: Call) -> None:
    """Say why a convolution for one kind of processor is not followed."""
    raise CannotExpand("channels in blocks, whose size depends on the machine that saved the model")
