"""Attention written out: contraction of q and k, scale, mask, Softmax, contraction with v.

The core is a Softmax between two contractions. Scores may be scaled, capped (Gemma 2: Div, Tanh,
Mul), masked by Add, Where or Max (XGLM), joined by a sink that takes a share (GPT-OSS: Concat, and
Slice afterwards), mixed over heads by a constant (talking heads) and cast around the Softmax; the
weights may pass a NaN guard (sdpa: IsNaN and Where) before they meet v. Scales on q or k^T and
transposes belong to their operands. Either product may be written transposed, and an Einsum may
have its axes in any order: the match says where heads and positions are.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphrebase.graph.axis_path import axis_after, axis_before
from graphrebase.graph.equation import Equation
from graphrebase.graph.pattern import Match, NearMiss, Pattern, Scene
from graphrebase.graph.view import Node, Slot

_SCORE_OPS = frozenset(
    {
        *("Add", "Cast", "Clip", "Concat", "Div", "Max", "Mul", "Reshape", "Slice", "Squeeze"),
        *("Sub", "Tanh", "Transpose", "Where"),
    }
)
_WEIGHT_OPS = frozenset(
    {
        *("Cast", "Dropout", "Mul", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
        "Where",
    }
)
_CONTRACTIONS = frozenset({"Einsum", "MatMul"})
#: Talking heads mix scores or weights over heads by a constant, the heads turned to the end or not.
_MIXING = frozenset({"Conv", *_CONTRACTIONS})
_AROUND_MIXING = frozenset({"LayerNormalization", "Transpose"})


def _match(scene: Scene, node: Node) -> Match | NearMiss | None:
    scores = _scores(scene, node)
    path = _to_values(scene, node)
    if scores is None and not path:
        return None
    if scores is None:
        return NearMiss("attention_softmax", node, "no contraction of q and k before this Softmax")
    if not path:
        return NearMiss("attention_softmax", node, "no contraction with v after this Softmax")
    weights = path[-1].node
    if scores.op_type != weights.op_type:
        return NearMiss("attention_softmax", node, "one contraction is an Einsum, the other is not")
    if scores.op_type == "Einsum":
        return _einsum(scene, node, scores, weights)
    return _matmul(scene, node, scores, path)


def _matmul(scene: Scene, node: Node, scores: Node, path: list[Slot]) -> Match | NearMiss:
    """Name the operands of two MatMul by the axis that Softmax normalises, the keys'.

    Each product may be written transposed: k q^T (tf2onnx) and v^T weights^T.
    """
    weights, place = path[-1].node, path[-1].position
    axis = node.attributes.get("axis", -1) % scene.rank(node.inputs[0])
    way = _from_scores(scene, scores, node)
    normalised = axis_before(scene.shapes, way, axis) if way else None
    key = 0 if normalised == scene.rank(scores.outputs[0]) - 2 else 1
    summed = axis_after(scene.shapes, path, axis)
    if summed is not None and summed != scene.rank(weights.inputs[place]) - 1 - place:
        return NearMiss("attention_softmax", node, "the next contraction is over another axis")
    places = {"query": (scores, 1 - key), "key": (scores, key), "value": (weights, 1 - place)}
    parts = {part: found.inputs[i] for part, (found, i) in places.items()}
    turned = {"query": key == 0, "key": key == 1, "value": place == 1, "output": place == 1}
    facts = {f"{part}_layout": "transposed" for part, is_turned in turned.items() if is_turned}
    return Match("attention", node, {**parts, "output": weights.outputs[0]}, facts)


def _scores(scene: Scene, node: Node) -> Node | None:
    """Return the contraction of q and k; scores may have a part by position (XLNet, DeBERTa)."""
    found = [
        n
        for n in scene.all_back(node.inputs[0], _SCORE_OPS, _CONTRACTIONS)
        if len(scene.computed_inputs(n)) == 2
    ]
    found = found or list(_before_mixing(scene, node.inputs[0]))
    by_content = (n for n in found if all(map(scene.varies, n.inputs)))
    return next(by_content, found[0] if found else None)


def _before_mixing(scene: Scene, name: str) -> Iterator[Node]:
    """Yield the contractions of q and k behind scores that a constant mixes over heads.

    Scores have an axis of heads; what a router turns into shares has none.
    """
    if scene.rank(name) < 4:
        return
    for node in scene.all_back(name, _SCORE_OPS | _AROUND_MIXING, _MIXING):
        computed = scene.computed_inputs(node)
        if scene.rank(node.outputs[0]) < 4:
            continue
        if len(computed) == 2 and node.op_type in _CONTRACTIONS:
            yield node
        elif len(computed) == 1:
            yield from _before_mixing(scene, computed[0])


def _from_scores(scene: Scene, scores: Node, node: Node) -> list[Slot]:
    """Return the uses on the way from the contraction of q and k to the Softmax."""
    path = scene.path(scores.outputs[0], _SCORE_OPS, {"Softmax"})
    if not path or path[-1].node is not node:
        path = scene.path(scores.outputs[0], _SCORE_OPS | _AROUND_MIXING | _MIXING, {"Softmax"})
    return path if path and path[-1].node is node else []


def _to_values(scene: Scene, node: Node) -> list[Slot]:
    """Return the uses on the way from the Softmax to the contraction with v, empty without one.

    A constant may mix the weights over heads on the way.
    """
    path = scene.path(node.outputs[0], _WEIGHT_OPS, _MIXING)
    if scene.rank(node.outputs[0]) >= 4:
        wide = _WEIGHT_OPS | _AROUND_MIXING
        path = path or scene.path(node.outputs[0], wide, _MIXING)
        if path and len(scene.computed_inputs(path[-1].node)) == 1:
            further = scene.path(path[-1].node.outputs[0], wide, _CONTRACTIONS)
            path = [*path, *further] if further else []
    if not path or path[-1].node.op_type not in _CONTRACTIONS:
        return []
    return path if len(scene.computed_inputs(path[-1].node)) == 2 else []


def _einsum(scene: Scene, node: Node, scores: Node, weights: Node) -> Match | NearMiss:
    """Name the operands of two Einsum by the letter that Softmax normalises, the keys'."""
    first, second = (Equation.parse(n.attributes["equation"]) for n in (scores, weights))
    normalised = first.output[node.attributes.get("axis", -1)]
    key = 1 if normalised in first.operands[1] else 0
    value = 1 if scene.back(weights.inputs[0], _WEIGHT_OPS, {"Softmax"}) is node else 0
    query_term, key_term = first.operands[1 - key], first.operands[key]
    value_term, weight_term = second.operands[value], second.operands[1 - value]
    inner = set(query_term) & set(key_term) - set(first.output)
    read = set(value_term) & set(weight_term) - set(second.output)
    brought = set(value_term) - set(weight_term)
    orders = {
        "query": _order(query_term, set(query_term) - set(key_term), inner),
        "key": _order(key_term, set(key_term) - set(query_term), inner),
        "value": _order(value_term, read, brought),
        "output": _order(second.output, set(second.output) - set(value_term), brought),
    }
    if not all(orders.values()) or "." in "".join((*first.operands, *second.operands)):
        return NearMiss("attention_softmax", node, "an Einsum that is not that of attention")
    parts = {
        "query": scores.inputs[1 - key],
        "key": scores.inputs[key],
        "value": weights.inputs[value],
        "output": weights.outputs[0],
    }
    return Match("attention", node, parts, {f"{part}_order": o for part, o in orders.items()})


def _order(term: str, positions: set[str], inside: set[str]) -> str:
    """Return the axes of a term, batch and heads first, then positions, then inside the head."""
    if len(positions) != 1 or len(inside) != 1:
        return ""
    lead = [i for i, c in enumerate(term) if c not in positions | inside]
    last = (term.index(c) for c in (*positions, *inside))
    return ",".join(map(str, (*lead, *last)))


PATTERN = Pattern("attention_softmax", frozenset({"Softmax"}), _match)
