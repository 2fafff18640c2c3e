"""The residual stream: the Add that joins what a block computes to what passes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphrebase.graph import Graph, Node, ShapeTable

#: What may stand between a block and its Add: LayerScale, a norm after the block (Gemma 2) as one
#: operator or written out, the weighted sum over experts, reshapes, transposes of seq-first code.
_TO_RESIDUAL = frozenset(
    {
        *("Abs", "Cast", "Clip", "Div", "Dropout", "Expand", "LayerNormalization", "Max", "Mul"),
        *("Pow", "RMSNormalization", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum"),
        *("ReduceSumSquare", "Reshape", "SimplifiedLayerNormalization", "Slice", "Sqrt"),
        *("Squeeze", "Sub", "Transpose", "Unsqueeze"),
    }
)
#: Operators looked at between a block and its Add.
_REACH = 40
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
    reached, seen = {branch: channels}, set[int]()
    queue = [(s.node.index, s.node) for s in graph.users(branch) if s.position >= 0]
    for _ in range(_REACH):
        queue = sorted((item for item in queue if item[0] not in seen), key=lambda item: item[0])
        if not queue:
            return None
        index, node = queue.pop(0)
        seen.add(index)
        name = next(n for n in node.inputs if n in reached)
        found = _closes(graph, shapes, node, name, reached)
        if found is not None:
            return found
        if _passes(graph, shapes, node, name, reached):
            turned = _turned(node, reached[name]) if node.op_type == "Transpose" else reached[name]
            reached[node.outputs[0]] = turned
            users = graph.users(node.outputs[0])
            queue += [(s.node.index, s.node) for s in users if s.position >= 0]
    return None


def _closes(
    graph: Graph, shapes: ShapeTable, node: Node, name: str, reached: Mapping[str, int]
) -> Residual | None:
    """Return the residual if a node is the Add at which the stream passes by."""
    if node.op_type != "Add":
        return None
    place = node.inputs.index(name)
    other = node.inputs[1 - place]
    if other in reached or not _fits(graph, shapes, other, name):
        return None
    passing = _unscaled(graph, shapes, other)
    if _computed_from(graph, shapes, name, passing) or _is_joined(graph, shapes, passing):
        return Residual(node, 1 - place, place, reached[name])
    return None


def _passes(
    graph: Graph, shapes: ShapeTable, node: Node, name: str, reached: Mapping[str, int]
) -> bool:
    """Tell whether what a block computed goes on behind a node.

    A sum of blocks in parallel is the only use of each; a stream has others.
    """
    others = [n for n in node.inputs if n and n not in reached and not _is_known(graph, shapes, n)]
    if node.op_type == "Concat":  # slices of one value put together again (shifted windows)
        return not others
    if node.op_type != "Add" or not others:
        return node.op_type in _TO_RESIDUAL or node.op_type == "Add"
    return _fits(graph, shapes, others[0], name) and len(graph.users(name)) == 1


def _turned(node: Node, channels: int) -> int:
    """Return the axis of the channels after a Transpose; -1 where it is the last one."""
    order = node.attributes.get("perm")
    if order is None:
        return channels
    place = list(order).index(channels % len(order))
    return -1 if place == len(order) - 1 else place


def _is_known(graph: Graph, shapes: ShapeTable, value: str) -> bool:
    return graph.is_constant(value) or value in shapes.values


def _fits(graph: Graph, shapes: ShapeTable, skip: str, branch: str) -> bool:
    if _is_known(graph, shapes, skip):
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
    sizes = shapes.shape(value) or ()
    return _is_known(graph, shapes, value) and all(size == (1, 1) for size in sizes)


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
