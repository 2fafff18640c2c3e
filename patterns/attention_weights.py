"""Attention without a Softmax operator: its weights are a function of the scores, written out.

A Softmax by hand (Exp over its ReduceSum), sigmoid and squared-ReLU attention. The core is the
contraction with v; behind its weights lies, through element-wise operators of which one at least
is not linear, the contraction of q and k. Anything else is a different thing: there is no near
miss, as many a MatMul has two computed operands.
"""

from __future__ import annotations

from graphrebase.graph.pattern import Match, Pattern, Scene
from graphrebase.graph.view import Node

_NONLINEAR = frozenset({"Erf", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softplus", "Tanh"})
_LINEAR = frozenset(
    {
        *("Add", "Cast", "Clip", "Div", "Dropout", "Max", "Mul", "Neg", "Pow", "Reshape"),
        *("Squeeze", "Sub", "Unsqueeze", "Where"),
    }
)
#: Softmax has a pattern of its own.
_ENDS = frozenset({"Einsum", "MatMul", "Softmax"})


def _match(scene: Scene, node: Node) -> Match | None:
    if len(scene.computed_inputs(node)) != 2:
        return None
    curved = scene.back(node.inputs[0], _LINEAR, _NONLINEAR | _ENDS)
    if curved is None or curved.op_type not in _NONLINEAR:
        return None
    scores = scene.back(curved.inputs[0], _LINEAR | _NONLINEAR, _ENDS)
    if scores is None or scores.op_type != "MatMul" or len(scene.computed_inputs(scores)) != 2:
        return None
    parts = {
        "query": scores.inputs[0],
        "key": scores.inputs[1],
        "value": node.inputs[1],
        "output": node.outputs[0],
    }
    return Match("attention", node, parts, {"key_layout": "transposed"})


PATTERN = Pattern("attention_weights", frozenset({"MatMul"}), _match)
