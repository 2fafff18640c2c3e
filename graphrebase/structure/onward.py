"""Where values go: from the heads of an attention to the linear map that reads them."""

from __future__ import annotations

from collections.abc import Mapping

from graphrebase.graph import Graph, Node
from graphrebase.structure.linear import Linear
from graphrebase.structure.trace import LIMIT, STRUCTURAL

#: Operators between the heads and their output projection that read them as first operand.
_ONWARDS = STRUCTURAL | {
    *("Cast", "Div", "Dropout", "LayerNormalization", "RMSNormalization", "Sub"),
}


def target_of(
    graph: Graph, value: str, readers: Mapping[str, Linear]
) -> tuple[Linear, list[tuple[Node, str, str]]] | None:
    """Return the nearest linear map that reads a value and the steps from the value to it.

    On the way may stand a norm (BitNet), a gate, and other channels beside these (ConvBERT).
    """
    queue: list[tuple[str, list[tuple[Node, str, str]]]] = [(value, [])]
    seen = {value}
    while queue:
        name, steps = queue.pop(0)
        if name in readers:
            return readers[name], steps
        if len(steps) > LIMIT:
            continue
        for slot in graph.users(name):
            node = slot.node
            if _carries_on(graph, node, slot.position):
                given = node.outputs[0]
                if given not in seen:
                    seen.add(given)
                    queue.append((given, [*steps, (node, name, given)]))
    return None


def _carries_on(graph: Graph, node: Node, position: int) -> bool:
    """Tell whether a node hands the channels of an operand on to what reads them.

    A sum with something computed is a residual connection: what follows is another block.
    """
    if node.op_type == "Add":
        return graph.is_constant(node.inputs[1 - position])
    if node.op_type in ("Concat", "Mul"):
        return True
    return position == 0 and node.op_type in _ONWARDS
