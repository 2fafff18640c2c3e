"""LayerNorm as TensorFlow writes it: s = gain / std, then x * s + (bias - mean * s).

tf2onnx writes the mean over the features as GlobalAveragePool, and 1 / std as Reciprocal of Sqrt.
"""

from __future__ import annotations

from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node

_MEANS = {"GlobalAveragePool", "ReduceMean"}


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    root = scene.producer(node.inputs[-1])
    if root is None or root.op_type != "Sqrt":
        return None
    variance = scene.back(root.inputs[0], {"Add"}, _MEANS)
    scaled = scene.forward(node.outputs[0], {"Cast"}, {"Mul"})
    gain = next((n for n in scaled.inputs if scene.graph.is_constant(n)), None) if scaled else None
    if variance is None or scaled is None or gain is None:
        return None
    products = [s.node for s in scene.graph.users(scaled.outputs[0]) if s.node.op_type == "Mul"]
    if len(products) != 2:
        return None
    for direct, shifted in (products, products[::-1]):
        source = next(n for n in direct.inputs if n not in scaled.outputs)
        mean = scene.back(shifted.inputs[0], {"Neg"}, _MEANS) or scene.back(
            shifted.inputs[1], {"Neg"}, _MEANS
        )
        offset = scene.forward(shifted.outputs[0], set(), {"Add", "Sub"})
        if mean is None or mean.inputs[0] != source or offset is None:
            continue
        output = scene.forward(direct.outputs[0], set(), {"Add"})
        bias = next((n for n in offset.inputs if scene.graph.is_constant(n)), None)
        if output is None or bias is None or offset.outputs[0] not in output.inputs:
            continue
        parts = {"input": source, "gain": gain, "bias": bias, "output": output.outputs[0]}
        return Match("norm", node, parts, {"norm": "LayerNorm"})
    return NearMiss("layer_norm_folded", node, "scaled by gain / std, but not shifted by the mean")


PATTERN = Pattern("layer_norm_folded", frozenset({"Reciprocal"}), _match)
