"""A norm as one operator: LayerNormalization (opset 17) or RMSNormalization (opset 23)."""

from __future__ import annotations

from graphrebase.graph.pattern import Match, Pattern, Scene
from graphrebase.graph.view import Node


def _match(scene: Scene, node: Node) -> Match | None:
    parts = {"input": node.inputs[0], "gain": node.inputs[1], "output": node.outputs[0]}
    if node.input(2):
        parts["bias"] = node.inputs[2]
    return Match("norm", node, parts, {"norm": node.op_type.removesuffix("alization")})


PATTERN = Pattern("layer_norm", frozenset({"LayerNormalization", "RMSNormalization"}), _match)
