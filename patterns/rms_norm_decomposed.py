"""RMSNorm written out: x * rsqrt(mean(x^2) + eps) * gain, with casts around it.

Llama multiplies by the gain from the left, Gemma from the right; the reciprocal is a Div of one
or a Reciprocal.
"""

from __future__ import annotations

from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node


def _is_reciprocal(scene: Scene, node: Node) -> bool:
    one_over = node.op_type == "Div" and scene.graph.is_constant(node.inputs[0])
    return node.op_type == "Reciprocal" or one_over


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    inverse = next(
        (p for p in map(scene.producer, node.inputs) if p is not None and _is_reciprocal(scene, p)),
        None,
    )
    if inverse is None:
        return None
    root = scene.producer(inverse.inputs[-1])
    mean = scene.back(root.inputs[0], {"Add"}, {"ReduceMean"}) if root else None
    if root is None or root.op_type != "Sqrt" or mean is None:
        return None
    source = next(n for n in node.inputs if n not in inverse.outputs)
    scaled = scene.forward(node.outputs[0], {"Cast"}, {"Mul"})
    gain = next((n for n in scaled.inputs if scene.graph.is_constant(n)), None) if scaled else None
    if scaled is None or gain is None:
        return NearMiss("rms_norm_decomposed", node, "normalised, but no gain follows")
    parts = {"input": source, "gain": gain, "output": scaled.outputs[0]}
    return Match("norm", node, parts, {"norm": "RMSNorm"})


PATTERN = Pattern("rms_norm_decomposed", frozenset({"Mul"}), _match)
