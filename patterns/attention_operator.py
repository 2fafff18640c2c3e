"""Attention as one operator: Attention(q, k, v, mask) of opset 23.

The operators of com.microsoft and packed heads come to this form before (``graph.bodies``).
"""

from __future__ import annotations

from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    if scene.rank(node.inputs[0]) != 4:
        return NearMiss("attention_operator", node, "its operands are no heads (B, h, S, d)")
    parts = {
        "query": node.inputs[0],
        "key": node.inputs[1],
        "value": node.inputs[2],
        "output": node.outputs[0],
    }
    return Match("attention", node, parts, {"key_layout": "plain"})


PATTERN = Pattern("attention_operator", frozenset({"Attention"}), _match)
