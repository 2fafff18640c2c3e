"""Shapes of operators outside ONNX that have no body (see ``bodies``), one function each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphrebase.graph.quantized_shapes import SHAPES as QUANTIZED
from graphrebase.graph.view import Node

#: Element type (as in TensorProto) and shape of a value under one probe.
Typed = tuple[int, tuple[int, ...]]
Inputs = Sequence[Typed | None]
ShapeFunction = Callable[[Node, Inputs], list[Typed | None]]

SHAPES: dict[tuple[str, str], ShapeFunction] = {}


def shape_of(
    *op_types: str, domain: str = "com.microsoft"
) -> Callable[[ShapeFunction], ShapeFunction]:
    """Register the shape function of one or more operators."""

    def register(function: ShapeFunction) -> ShapeFunction:
        for op_type in op_types:
            SHAPES[domain, op_type] = function
        return function

    return register


def contributed(node: Node, inputs: Inputs) -> list[Typed | None]:
    """Return element type and shape of every output, None where they are not known."""
    function = SHAPES.get((node.domain, node.op_type)) or QUANTIZED.get(node.op_type)
    if function is None:
        return [None] * len(node.outputs)
    try:
        return function(node, inputs)
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return [None] * len(node.outputs)  # a malformed call: unknown is safe


@shape_of("Conv", domain="com.microsoft.nchwc")
def blocked_convolution(node: Node, inputs: Inputs) -> list[Typed | None]:
    """(N, C, ...) by (M, C, k ...) gives (N, M, ...), as Conv does; channels are in blocks."""
    data, weight = inputs[0], inputs[1]
    if data is None or weight is None:
        return [None]
    sizes = _windows(node, data[1][2:], weight[1][2:])
    return [None if sizes is None else (data[0], (data[1][0], weight[1][0], *sizes))]


@shape_of("AveragePool", "MaxPool", domain="com.microsoft.nchwc")
def blocked_pool(node: Node, inputs: Inputs) -> list[Typed | None]:
    """(N, C, ...) gives (N, C, ...), a place per window."""
    data = inputs[0]
    if data is None:
        return [None]
    sizes = _windows(node, data[1][2:], node.attributes["kernel_shape"])
    return [None if sizes is None else (data[0], (*data[1][:2], *sizes))]


@shape_of("GlobalAveragePool", "GlobalMaxPool", domain="com.microsoft.nchwc")
def blocked_global_pool(node: Node, inputs: Inputs) -> list[Typed | None]:
    """(N, C, ...) gives (N, C, 1 ...)."""
    data = inputs[0]
    return [None if data is None else (data[0], (*data[1][:2], *(1 for _ in data[1][2:])))]


def _windows(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> list[int] | None:
    """Return how many windows fit along each spatial axis, None for modes not known here."""
    count, attributes = len(spatial), node.attributes
    strides = attributes.get("strides", [1] * count)
    mode = attributes.get("auto_pad", "NOTSET")
    if mode.startswith("SAME"):
        return [-(-size // stride) for size, stride in zip(spatial, strides, strict=True)]
    if attributes.get("ceil_mode") or mode not in ("NOTSET", "VALID"):
        return None
    pads = [0] * 2 * count if mode == "VALID" else attributes.get("pads", [0] * 2 * count)
    dilations = attributes.get("dilations", [1] * count)
    return [
        (size + pads[i] + pads[i + count] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, size in enumerate(spatial)
    ]


@shape_of("ReorderOutput", domain="com.microsoft.nchwc")
def plain_channels(node: Node, inputs: Inputs) -> list[Typed | None]:
    """(N, C blocked, ...) gives (N, C, ...), or (N, ..., C) with ``channels_last``."""
    data = inputs[0]
    if data is None:
        return [None]
    batch, _, *spatial = data[1]
    channels = node.attributes["channels"]
    last = node.attributes.get("channels_last", 0)
    return [(data[0], (batch, *spatial, channels) if last else (batch, channels, *spatial))]


@shape_of("ReorderInput", domain="com.microsoft.nchwc")
def blocked_channels(node: Node, inputs: Inputs) -> list[Typed | None]:
    """(N, C, ...), or (N, ..., C) with ``channels_last``, gives (N, C blocked, ...)."""
    data = inputs[0]
    if data is None:
        return [None]
    batch, *rest = data[1]
    shape = [rest[-1], *rest[:-1]] if node.attributes.get("channels_last", 0) else rest
    return [(data[0], (batch, *shape))]
