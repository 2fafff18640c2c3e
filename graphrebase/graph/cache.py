"""KV-cache inputs and outputs, found by what attention does with them; names do not count.

A cache input reaches, through layout operators alone, the contraction with a query (another
computed value), or the past input of an attention operator. The outputs that it grows into on the
way (past -> Concat -> present) are paired with it. An output without an input (the first step of a
decoder) is a cache where attention reads the same value as keys or values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphrebase.graph.quantized import float_node, form_of
from graphrebase.graph.shapes import ShapeTable
from graphrebase.graph.view import Graph, Node, Slot

#: Operators that hand keys and values on: their place changes, not what they are.
_LAYOUT = {
    *("Cast", "Concat", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Expand"),
    *(
        "Gather",
        "If",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ),
}
#: Operators between cached keys and the contraction: scales, rotary embedding after the cache.
_SCALES = {"Add", "Div", "Mul", "Neg", "RotaryEmbedding", "Where", "ScatterElements", "ScatterND"}
_CONTRACTIONS = {("", "MatMul"), ("", "Einsum"), ("com.microsoft", "FusedMatMul")}
_SIZES = {"Shape", "Size"}
_SHARES = {"QLinearSoftmax", "Softmax"}

#: Attention operators: per input position that is a key, a value or a cache, the output position
#: of the grown cache.
_ATTENTION: Mapping[tuple[str, str], Mapping[int, int]] = {
    ("", "Attention"): {1: 1, 2: 2, 4: 1, 5: 2},
    ("com.microsoft", "Attention"): {4: 1},
    ("com.microsoft", "GroupQueryAttention"): {1: 1, 2: 2, 3: 1, 4: 2},
    ("com.microsoft", "MultiHeadAttention"): {1: 1, 2: 2, 6: 1, 7: 2},
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): {1: 1, 2: 2, 5: 1, 6: 2},
}
_FLOATING = {1, 10, 11, 16}  # float, float16, double, bfloat16
_LIMIT = 400


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache at a graph's interface.

    Attributes:
        inputs: graph inputs that hold past keys and values.
        outputs: graph outputs that hold present ones.
        pairs: (input, output) where the one grows into the other.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Trace:
    """Where a value goes: whether attention reads it, and the values passed on the way."""

    is_read: bool
    passed: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Step:
    """One use of a cache: the value it becomes (``""`` for none); whether attention reads it."""

    becomes: str = ""
    is_read: bool = False


def find_cache(graph: Graph, shapes: ShapeTable) -> Cache:
    """Return the KV cache of a graph, empty where it has none."""
    inputs: list[str] = []
    pairs: list[tuple[str, str]] = []
    sources: dict[str, list[str]] = {}
    for output, value in graph.outputs.items():
        sources.setdefault(value, []).append(output)
    for name, info in graph.inputs.items():
        kind = info.type.tensor_type.elem_type
        if kind not in _FLOATING or not _has_heads(shapes, name):
            continue
        trace = _follow(graph, shapes, name)
        if trace is None or not trace.is_read:
            continue
        inputs.append(name)
        grown = [output for value in sources if value in trace.passed for output in sources[value]]
        pairs.extend((name, output) for output in grown)
    outputs = {output for _, output in pairs}
    for output, value in graph.outputs.items():
        if output not in outputs and _has_heads(shapes, value) and _is_read(graph, shapes, value):
            outputs.add(output)
    return Cache(frozenset(inputs), frozenset(outputs), tuple(pairs))


def _has_heads(shapes: ShapeTable, name: str) -> bool:
    shape = shapes.shape(name)
    return shape is not None and len(shape) >= 3 and any(a == b and a > 1 for a, b in shape)


def _is_read(graph: Graph, shapes: ShapeTable, value: str) -> bool:
    """Tell whether attention reads an output, or what it is a rearrangement of."""
    name: str | None = value
    while name is not None:
        if graph.is_constant(name):
            return False
        trace = _follow(graph, shapes, name)
        if trace is not None and trace.is_read:
            return not _is_attention_weight(graph, name)
        node = graph.producers.get(name)
        if node is None:
            return False
        if (node.domain, node.op_type) in _ATTENTION:
            grown = _ATTENTION[node.domain, node.op_type].values()
            return name in [node.outputs[i] for i in grown if 0 < i < len(node.outputs)]
        # Concat and If join several values: only a plain rearrangement is walked back.
        name = node.inputs[0] if node.op_type in _LAYOUT - {"Concat", "If", "Gather"} else None
    return False


def _is_attention_weight(graph: Graph, value: str) -> bool:
    """Tell whether a value comes from a Softmax: it is contracted too, but is no cache."""
    node = graph.producers.get(value)
    while node is not None and node.op_type in {"Cast", "Dropout", "Reshape", "Where", "Mul"}:
        computed = [n for n in node.inputs if n and not graph.is_constant(n)]
        node = graph.producers.get(computed[-1]) if computed else None
    return node is not None and node.op_type in _SHARES


def _follow(graph: Graph, shapes: ShapeTable, value: str) -> _Trace | None:
    """Return where a value goes; None where anything but attention reads it."""
    is_read, queue, passed = False, [value], {value}
    while queue:
        for slot in graph.users(queue.pop()):
            step = _step(graph, shapes, slot)
            if step is None or len(passed) > _LIMIT:
                return None
            is_read |= step.is_read
            if step.becomes and step.becomes not in passed:
                passed.add(step.becomes)
                queue.append(step.becomes)
    return _Trace(is_read, frozenset(passed))


def _step(graph: Graph, shapes: ShapeTable, slot: Slot) -> _Step | None:
    """Return what a use does with a cache; None where it is a use that a cache does not have."""
    node, position = _as_float(slot)
    kind = (node.domain, node.op_type)
    if kind in _ATTENTION:
        place = _ATTENTION[kind].get(position)
        if place is None:
            return None
        return _Step(node.outputs[place] if place < len(node.outputs) else "", is_read=True)
    if kind in _CONTRACTIONS:
        others = [n for i, n in enumerate(node.inputs) if i != position]
        met = all(not graph.is_constant(n) and n not in shapes.values for n in others)
        return _Step(is_read=True) if met else None
    if node.domain or position < 0:
        return None
    if node.op_type in _SIZES:
        return _Step()
    if node.op_type == "If":
        return _merged(node, position)
    first_only = node.op_type in _LAYOUT - {"Concat"}
    if (first_only and position == 0) or node.op_type in _SCALES | {"Concat"}:
        return _Step(node.outputs[0])
    return None


def _as_float(slot: Slot) -> tuple[Node, int]:
    """Return the float operator that a use stands for, and the operand that it is there."""
    form = form_of(slot.node)
    positions = [] if form is None else [operand.position for operand in form.operands]
    if form is None or slot.position not in positions:
        return slot.node, slot.position
    return float_node(slot.node, form), positions.index(slot.position)


def _merged(node: Node, position: int) -> _Step | None:
    """Return the output that a branch's output, input ``position`` of an If, becomes."""
    count = len(node.outputs)
    return _Step(node.outputs[(position - 1) % count]) if position and count else None
