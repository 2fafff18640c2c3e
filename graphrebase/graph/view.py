"""A plain, immutable view of an ONNX graph, built from a model without its weights.

The view is made straight from the protobuf. onnx-graphsurgeon, which the design first named, was
measured to be in the way: it drops the ``NodeProto`` that shape inference needs and its import is
several times slower than this module (``tools/bench_inspect.py`` prints both).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from graphrebase.errors import InputError
from graphrebase.graph.flat import FlatCall, flat_calls
from graphrebase.io import Model, TensorRef

_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator call. ``inputs`` holds ``""`` where an optional input is absent.

    Attributes:
        index: position in the topological order.
        captured: values of the outer graph that the node's sub-graphs read without listing them.
        opset: version of the operator set, where it is not the graph's.
        fused: the fused operator of the file that this node is a part of, if it is one.
        refusal: why a fused operator was not expanded, ``""`` for all others.
        scope: prefix of the branch of an If that the node stands in, ``""`` for the main graph.
    """

    index: int
    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    captured: tuple[str, ...]
    proto: onnx.NodeProto
    opset: int = 0
    fused: Node | None = None
    refusal: str = ""
    scope: str = ""

    def __str__(self) -> str:
        """Return ``op_type 'name'`` for messages."""
        if self.fused is not None:
            return f"{self.op_type} in {self.fused.op_type} '{self.name or self.fused.outputs[0]}'"
        return f"{self.op_type} '{self.name or self.outputs[0]}'"

    def stored(self, position: int) -> tuple[Node, int] | None:
        """Return the node of the file that reads input ``position``, and where it does.

        None for a value inside a fused operator.
        """
        if self.fused is None:
            return self, position
        name = self.inputs[position]
        return (self.fused, self.fused.inputs.index(name)) if name in self.fused.inputs else None

    def input(self, position: int) -> str:
        """Return the input value at ``position``, ``""`` where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class Slot:
    """One use of a value: input ``position`` of ``node``."""

    node: Node
    position: int


@dataclass(frozen=True, eq=False)
class Graph:
    """The main graph of a model.

    Attributes:
        nodes: operator calls in topological order; Constant nodes and Identity aliases are gone.
        inputs: graph inputs that are not initializers, with their types.
        outputs: graph output names, with the value that really feeds them.
        constants: initializers and Constant-node tensors by name.
        literals: values of Constant nodes given as attributes (``value_int`` and the like).
        opset: version of the default operator set.
    """

    model: Model
    nodes: tuple[Node, ...]
    inputs: Mapping[str, onnx.ValueInfoProto]
    outputs: Mapping[str, str]
    constants: Mapping[str, TensorRef]
    literals: Mapping[str, np.ndarray]
    opset: int

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Return the node that computes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> dict[str, tuple[Slot, ...]]:
        """Return every use of each value, in topological order."""
        uses: dict[str, list[Slot]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    uses.setdefault(name, []).append(Slot(node, position))
            for name in node.captured:
                uses.setdefault(name, []).append(Slot(node, -1))
        return {name: tuple(slots) for name, slots in uses.items()}

    def is_constant(self, name: str) -> bool:
        """Tell whether a value is an initializer or a constant."""
        return name in self.constants or name in self.literals

    def constant_value(self, name: str) -> np.ndarray | None:
        """Return the array of a constant value, or None where the value is computed."""
        if name in self.literals:
            return self.literals[name]
        ref = self.constants.get(name)
        return None if ref is None else ref.load()

    def users(self, name: str) -> tuple[Slot, ...]:
        """Return the uses of a value; empty where it has none."""
        return self.consumers.get(name, ())

    def upstream(self, values: Iterable[str]) -> set[str]:
        """Return values and everything that they are computed from."""
        found = set(values)
        pending = list(found)
        while pending:
            node = self.producers.get(pending.pop())
            read = () if node is None else (*node.inputs, *node.captured)
            fresh = {name for name in read if name} - found
            found |= fresh
            pending.extend(fresh)
        return found


def plain_graph(model: Model) -> Graph:
    """Return the view of a model's main graph as it is written, fused operators and all.

    Local functions are inlined, branches of If written out, the node order is repaired, Identity
    aliases are resolved.

    Raises:
        InputError: the graph has a cycle or reads a value that nothing computes.
    """
    proto = model.proto
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    calls, stored = flat_calls(proto.graph)
    constants = dict(model.tensors)
    literals, aliases = _literals(calls, constants), _aliases(calls)
    known = {*constants, *literals, *stored, *(value.name for value in proto.graph.input)}
    initializers = {tensor.name for tensor in proto.graph.initializer}
    kept = [
        call for call in calls if not (call.proto.op_type == "Constant" or _is_alias(call.proto))
    ]
    nodes = _ordered([_node(call, aliases) for call in kept], known, model)
    return Graph(
        model=model,
        nodes=tuple(nodes),
        inputs={v.name: v for v in proto.graph.input if v.name not in initializers},
        outputs={v.name: aliases.get(v.name, v.name) for v in proto.graph.output},
        constants=constants,
        literals=literals,
        opset=_opset(proto),
    )


def _opset(proto: onnx.ModelProto) -> int:
    return next((o.version for o in proto.opset_import if o.domain in _STANDARD_DOMAINS), 1)


def is_merge(node: Node) -> bool:
    """Tell whether a node is an If whose branches are written out (see ``flat``)."""
    fits = len(node.inputs) == 1 + 2 * len(node.outputs)
    return node.op_type == "If" and not node.domain and fits


def _is_alias(node: onnx.NodeProto) -> bool:
    return node.op_type == "Identity" and node.domain in _STANDARD_DOMAINS


def _aliases(calls: Iterable[FlatCall]) -> dict[str, str]:
    direct = {call.outputs[0]: call.inputs[0] for call in calls if _is_alias(call.proto)}
    resolved: dict[str, str] = {}
    for name in direct:
        target, seen = name, set[str]()
        while target in direct and target not in seen:
            seen.add(target)
            target = direct[target]
        resolved[name] = target
    return resolved


def _literals(calls: Iterable[FlatCall], constants: Container[str]) -> dict[str, np.ndarray]:
    """Return the values of Constant nodes that the file does not store as tensors of the model."""
    found: dict[str, np.ndarray] = {}
    for call in calls:
        if call.proto.op_type != "Constant" or not call.proto.attribute:
            continue
        attribute, name = call.proto.attribute[0], call.outputs[0]
        if attribute.name in ("value_int", "value_ints"):
            found[name] = np.array(onnx.helper.get_attribute_value(attribute), np.int64)
        elif attribute.name in ("value_float", "value_floats"):
            found[name] = np.array(onnx.helper.get_attribute_value(attribute), np.float32)
        elif attribute.name == "value" and name not in constants:  # in an inlined function
            found[name] = numpy_helper.to_array(attribute.t)
    return found


def node_of(proto: onnx.NodeProto, aliases: Mapping[str, str]) -> Node:
    """Return a node of the view, without its place, with aliases resolved."""
    return _node(FlatCall(proto, tuple(proto.input), tuple(proto.output)), aliases)


def _node(call: FlatCall, aliases: Mapping[str, str]) -> Node:
    proto = call.proto
    return Node(
        index=-1,
        name=proto.name,
        op_type=proto.op_type,
        domain="" if proto.domain in _STANDARD_DOMAINS else proto.domain,
        inputs=tuple(aliases.get(name, name) for name in call.inputs),
        outputs=call.outputs,
        attributes={a.name: _attribute(a) for a in proto.attribute},
        captured=tuple(sorted({aliases.get(name, name) for name in call.captured})),
        proto=proto,
        scope=call.scope,
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    if attribute.type == onnx.AttributeProto.TENSOR:
        tensor = attribute.t
        return numpy_helper.to_array(tensor) if tensor.raw_data or len(tensor.dims) < 2 else None
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _ordered(nodes: list[Node], known: set[str], model: Model) -> Iterable[Node]:
    """Return the nodes in topological order, stable where the file already is in order."""
    ready, waiting = set(known) | {""}, nodes
    ordered: list[Node] = []
    while waiting:
        late: list[Node] = []
        for node in waiting:
            if all(name in ready for name in (*node.inputs, *node.captured)):
                ordered.append(node)
                ready.update(node.outputs)
            else:
                late.append(node)
        if len(late) == len(waiting):
            missing = [n for n in (*late[0].inputs, *late[0].captured) if n not in ready]
            raise InputError(
                f"{late[0]} reads '{missing[0]}', which nothing in the graph computes",
                where=str(model.path),
                hint="check the file with onnx.checker and export it again",
            )
        waiting = late
    return [replace(node, index=index) for index, node in enumerate(ordered)]
