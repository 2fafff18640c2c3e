"""Attention written out: contraction of q and k, scale, mask, Softmax, contraction with v.

The core is a Softmax between two contractions. Scores may be scaled, capped (Gemma 2: Div, Tanh,
Mul), masked by Add, Where or Max (XGLM), joined by a sink that takes a share (GPT-OSS: Concat, and
Slice afterwards) and cast around the Softmax; the weights may pass a NaN guard (sdpa: IsNaN and
Where) before they meet v. Scales on q or k^T and transposes belong to their operands.
"""

from __future__ import annotations

from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node

_SCORE_OPS = frozenset(
    {
        *("Add", "Cast", "Clip", "Concat", "Div", "Max", "Mul", "Reshape", "Slice", "Squeeze"),
        *("Sub", "Tanh", "Where"),
    }
)
_WEIGHT_OPS = frozenset({"Cast", "Dropout", "Mul", "Reshape", "Slice", "Unsqueeze", "Where"})
_CONTRACTIONS = frozenset({"MatMul"})


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    scores = scene.back(node.inputs[0], _SCORE_OPS, _CONTRACTIONS)
    weights = scene.forward(node.outputs[0], _WEIGHT_OPS, _CONTRACTIONS)
    before = scores is not None and len(scene.computed_inputs(scores)) == 2
    after = weights is not None and len(scene.computed_inputs(weights)) == 2
    if not before and not after:
        return None
    if scores is None or not before:
        return NearMiss("attention_softmax", node, "no contraction of q and k before this Softmax")
    if weights is None or not after:
        return NearMiss("attention_softmax", node, "no contraction with v after this Softmax")
    parts = {
        "query": scores.inputs[0],
        "key": scores.inputs[1],
        "value": weights.inputs[1],
        "output": weights.outputs[0],
    }
    return Match("attention", node, parts, {"key_layout": "transposed"})


PATTERN = Pattern("attention_softmax", frozenset({"Softmax"}), _match)
