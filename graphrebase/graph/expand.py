"""The graph that everything else looks at: fused operators give way to their bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.graph.bodies import BODIES
from graphrebase.graph.bodies.table import BODY_OPSET, Call, CannotExpand, KeepAsIs
from graphrebase.graph.branches import live, needed
from graphrebase.graph.probe import Probe
from graphrebase.graph.probe_sizes import Dim, input_dims, shared
from graphrebase.graph.shapes import long_enough
from graphrebase.graph.view import Graph, Node, node_of, plain_graph
from graphrebase.io import Model

#: How often sizes are taken anew from a graph that has been expanded further.
_LENGTHENINGS = 3


def build_graph(model: Model) -> Graph:
    """Return the view of a model's main graph.

    Local functions are inlined, branches of If written out (those that are ever taken), the node
    order is repaired, Identity aliases are resolved, fused operators are expanded, calls that no
    output depends on are left out.

    Raises:
        InputError: the graph has a cycle or reads a value that nothing computes.
    """
    return needed(expand(live(plain_graph(model))))


def expand(graph: Graph) -> Graph:
    """Return the graph with every fused operator replaced by its body, where it has one.

    Values that the operator gives keep their names; those inside it get names that are free. A body
    may need the rank of an input: where that is not known, other sizes of the graph's inputs are
    tried, those that ``infer_shapes`` tries.
    """
    if not any((node.domain, node.op_type) in BODIES for node in graph.nodes):
        return graph
    declared = input_dims(graph)
    best = _expanded(graph, declared)
    for start in (declared, shared(declared)):
        if not best.blind:
            break
        best = min(best, _lengthened(graph, start), key=lambda made: made.blind)
    return best.graph


@dataclass(frozen=True, slots=True)
class _Expanded:
    """An expanded graph; ``blind``: how many calls were refused that read an unknown shape."""

    graph: Graph
    blind: int


def _lengthened(graph: Graph, dims: Mapping[str, tuple[Dim, ...]]) -> _Expanded:
    """Return the expanded graph at sizes that leave its convolutions something, if that helps.

    Convolutions behind a fused operator are seen when that has a body.
    """
    made = _expanded(graph, dims)
    for _ in range(_LENGTHENINGS):
        grown = long_enough(made.graph, dims) if made.blind else dims
        if grown == dims:
            break
        dims, made = grown, _expanded(graph, grown)
    return made


def _expanded(graph: Graph, dims: Mapping[str, tuple[Dim, ...]]) -> _Expanded:
    """Return the expanded graph as it is when its inputs have these sizes."""
    probe = Probe.start(graph, 0, {}, dims)
    taken = {name for node in graph.nodes for name in (*node.inputs, *node.outputs)}
    producers: dict[str, Node] = {}
    literals: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    blind = 0
    for node in graph.nodes:
        call = Call(node, probe.types, producers, taken, graph.constants, graph.constant_value)
        parts = _parts(call, graph)
        refused = any(part.refusal for part in parts)
        blind += refused and any(n and n not in probe.types for n in node.inputs)
        for name, value in call.literals.items():
            probe.know(name, value)
        literals |= call.literals
        for part in parts:
            probe.visit(part)
            producers |= dict.fromkeys(filter(None, part.outputs), part)
        nodes.extend(parts)
    ordered = tuple(replace(node, index=index) for index, node in enumerate(nodes))
    made = replace(graph, nodes=ordered, literals={**graph.literals, **literals})
    return _Expanded(made, blind)


def _parts(call: Call, graph: Graph) -> list[Node]:
    """Return the nodes that a call stands for, itself where it stands for nothing else."""
    node = call.node
    function = BODIES.get((node.domain, node.op_type))
    if function is None:
        return [node]
    try:
        function(call)
        made = {name for part in call.nodes for name in part.output}
        for position, name in enumerate(node.outputs):
            if name and name not in made and (graph.users(name) or name in graph.outputs.values()):
                raise CannotExpand(f"output {position} of {node.op_type} is read")
    except KeepAsIs:
        return [node]
    except CannotExpand as reason:
        return [_refused(call, str(reason))]
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        return [_refused(call, f"{node.op_type} is malformed ({error})")]
    return [
        replace(node_of(part, {}), opset=BODY_OPSET, fused=node, refusal="") for part in call.nodes
    ]


def _refused(call: Call, reason: str) -> Node:
    call.literals.clear()
    return replace(call.node, refusal=reason)
