"""Fused operators and branches opened up where a value inside them is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import onnx
from onnx import helper, numpy_helper

from graphrebase.graph import Node, build_graph
from graphrebase.graph.bodies import BODIES
from graphrebase.graph.inlined import with_branches
from graphrebase.io import Model

#: Standard operators under the name by which onnxruntime has them in every operator set.
_NAMES = {"RMSNormalization": "SimplifiedLayerNormalization"}


def opened(model: Model, values: Set[str], given: Set[str]) -> onnx.GraphProto:
    """Return a model's graph with branches of If, and bodies of fused operators, written out.

    Of an If it is the branch that holds a value. Fused operators in the way are the ones that
    compute an asked value inside, and those of which one output is given and another one follows
    from it: a norm behind a stream that a fused operator has as well.

    Args:
        model: the model.
        values: values that become outputs.
        given: values that become inputs.
    """
    graph = with_branches(model.proto.graph, values | given)
    if not any((node.domain, node.op_type) in BODIES for node in graph.node):
        return graph
    view = build_graph(model)
    parts: dict[str, list[Node]] = {}
    for node in view.nodes:
        if node.fused is not None:
            parts.setdefault(_key(node.fused.outputs), []).append(node)
    wanted = {key for key, inside in parts.items() if _in_the_way(inside, values, given)}
    if not wanted:
        return graph
    result = onnx.GraphProto()
    result.CopyFrom(graph)
    del result.node[:]
    for proto in graph.node:
        key = _key(proto.output)
        if key not in wanted:
            result.node.append(proto)
            continue
        read = {name for node in parts[key] for name in node.inputs}
        result.node.extend(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
            for name, value in view.literals.items()
            if name in read
        )
        result.node.extend(_written(node) for node in parts[key])
    return result


def _in_the_way(inside: Sequence[Node], values: Set[str], given: Set[str]) -> bool:
    computed = {name for node in inside for name in node.outputs if name}
    fused = inside[0].fused
    shown = {name for name in fused.outputs if name} if fused is not None else set()
    hidden = computed - shown
    return bool((values | given) & hidden) or (len(shown) > 1 and bool(given & shown))


def _key(outputs: Iterable[str]) -> str:
    return next(filter(None, outputs), "")


def _written(node: Node) -> onnx.NodeProto:
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.op_type = _NAMES.get(node.op_type, node.op_type)
    return proto
