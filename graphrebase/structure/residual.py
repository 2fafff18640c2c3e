"""The residual stream: the Add that joins what a block computes to what passes by."""

from __future__ import annotations

from dataclasses import dataclass

from graphrebase.graph import Graph, Node, ShapeTable

#: What may stand between a block and its Add: LayerScale, a norm after the block (Gemma 2), the
#: weighted sum over experts, reshapes and the transposes of seq-first code.
_TO_RESIDUAL = {
    *("Cast", "Div", "Dropout", "LayerNormalization", "Mul", "RMSNormalization", "ReduceSum"),
    *("Reshape", "SimplifiedLayerNormalization", "Slice", "Squeeze", "Sub", "Transpose"),
    "Unsqueeze",
}
_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Residual:
    """The Add that closes a block; blocks in parallel share one.

    Attributes:
        node: the Add.
        skip: input position of the stream that passes by.
        branch: input position of what the block adds.
        channels: axis of the stream's channels: the last one, 1 for images.
    """

    node: Node
    skip: int
    branch: int
    channels: int = -1


def find_residual(
    graph: Graph, shapes: ShapeTable, branch: str, channels: int = -1
) -> Residual | None:
    """Return the Add that joins a block's output to the stream, or None.

    ``channels`` is the axis of the branch that holds its channels.

    An Add joins the stream if the other operand is what the block was computed from, perhaps times
    a number (DeepNorm), or if that operand is a stream already joined (attention and MLP in
    parallel, added one by one). Otherwise it sums blocks in parallel, and the sum is what the
    stream gets.
    """
    name = branch
    for _ in range(_LIMIT):
        users = [s for s in graph.users(name) if s.position >= 0]
        adds = [s for s in users if s.node.op_type == "Add"]
        following = [s.node for s in users if s.node.op_type in _TO_RESIDUAL]
        for slot in adds:
            skip = 1 - slot.position
            other = slot.node.inputs[skip]
            if not _fits(graph, shapes, other, name):
                continue
            passing = _unscaled(graph, shapes, other)
            if _computed_from(graph, shapes, name, passing) or _is_joined(graph, shapes, passing):
                return Residual(slot.node, skip, slot.position, channels)
            following.append(slot.node)
        step = _rolled(graph, following) if len(following) > 1 else following
        if len(step) != 1:
            return None
        if step[0].op_type == "Transpose":
            channels = _turned(step[0], channels)
        name = step[0].outputs[0]
    return None


def _turned(node: Node, channels: int) -> int:
    """Return the axis of the channels after a Transpose; -1 where it is the last one."""
    order = node.attributes.get("perm")
    if order is None:
        return channels
    place = list(order).index(channels % len(order))
    return -1 if place == len(order) - 1 else place


def _rolled(graph: Graph, slices: list[Node]) -> list[Node]:
    """Return the Concat that puts slices of one value together again (shifted windows)."""
    users = [slot.node for node in slices for slot in graph.users(node.outputs[0])]
    if any(n.op_type != "Slice" for n in slices) or any(n.op_type != "Concat" for n in users):
        return []
    return list({node.index: node for node in users}.values())


def _fits(graph: Graph, shapes: ShapeTable, skip: str, branch: str) -> bool:
    if graph.is_constant(skip) or skip in shapes.values:
        return False
    return shapes.shape(skip) is not None and shapes.shape(skip) == shapes.shape(branch)


def _unscaled(graph: Graph, shapes: ShapeTable, value: str) -> str:
    """Return what a value is a multiple of, by a number that is the same for all channels."""
    for _ in range(_LIMIT):
        node = graph.producers.get(value)
        if node is None or node.op_type not in ("Cast", "Div", "Mul"):
            return value
        given = [n for n in node.inputs if not _is_number(graph, shapes, n)]
        if len(given) != 1 or (given[0] != node.inputs[0] and node.op_type == "Div"):
            return value
        value = given[0]
    return value


def _is_number(graph: Graph, shapes: ShapeTable, value: str) -> bool:
    known = graph.is_constant(value) or value in shapes.values
    return known and all(size == (1, 1) for size in shapes.shape(value) or ())


def _is_joined(graph: Graph, shapes: ShapeTable, value: str) -> bool:
    """Tell whether a value is the sum of a stream and a block."""
    node = graph.producers.get(value)
    if node is None or node.op_type != "Add":
        return False
    left, right = node.inputs
    fits = _fits(graph, shapes, left, right) and _fits(graph, shapes, right, left)
    sides = ((left, _unscaled(graph, shapes, right)), (right, _unscaled(graph, shapes, left)))
    return fits and any(_computed_from(graph, shapes, block, passing) for block, passing in sides)


def _computed_from(graph: Graph, shapes: ShapeTable, value: str, source: str) -> bool:
    """Tell whether a value depends on another one, by more than its shape."""
    made = graph.producers.get(source)
    first = made.index if made is not None else -1
    stack, seen = [value], {value}
    while stack:
        name = stack.pop()
        if name == source:
            return True
        node = graph.producers.get(name)
        if node is None or node.index <= first or name in shapes.values:
            continue
        fresh = [n for n in (*node.inputs, *node.captured) if n and n not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return False
