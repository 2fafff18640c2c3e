"""LayerNorm written out (opset 14): mean, Sub, Pow, mean, Add, Sqrt, Div, Mul gain, Add bias."""

from __future__ import annotations

from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    root = scene.producer(node.inputs[1])
    centred = scene.producer(node.inputs[0])
    if root is None or root.op_type != "Sqrt" or centred is None:
        return None
    mean = scene.back(node.inputs[1], {"Sqrt", "Add"}, {"ReduceMean"})
    if mean is None or centred.op_type != "Sub":
        return None
    scaled = scene.forward(node.outputs[0], {"Cast"}, {"Mul"})
    gain = next((n for n in scaled.inputs if scene.graph.is_constant(n)), None) if scaled else None
    if scaled is None or gain is None:
        return NearMiss("layer_norm_decomposed", node, "normalised, but no gain follows")
    parts = {"input": centred.inputs[0], "gain": gain, "output": scaled.outputs[0]}
    shifted = next(
        (s.node for s in scene.graph.users(scaled.outputs[0]) if s.node.op_type == "Add"), None
    )
    bias = (
        next((n for n in shifted.inputs if scene.graph.is_constant(n)), None) if shifted else None
    )
    if shifted is not None and bias is not None:
        parts |= {"bias": bias, "output": shifted.outputs[0]}
    return Match("norm", node, parts, {"norm": "LayerNorm"})


PATTERN = Pattern("layer_norm_decomposed", frozenset({"Div"}), _match)
