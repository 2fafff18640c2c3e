"""The branches of If written into one list of calls, so that all that follows sees one graph.

A branch reads the outer graph freely and both branches may reuse names, so the values of a branch
get a prefix (``branch_scope``), which ``io`` gives to the tensors stored there too. An If becomes a
merge: a call that reads its condition and the outputs of both branches, first all of ``then``.
Loop and Scan bodies run several times; they stay calls with captured values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from graphrebase.io import branch_scope

_STANDARD_DOMAINS = ("", "ai.onnx")
_BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True, slots=True)
class FlatCall:
    """One operator call, its values named for the whole model.

    Attributes:
        captured: values of the outer graph that sub-graphs of the call read without listing them.
        scope: prefix of the branch that the call stands in, ``""`` for the main graph.
    """

    proto: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...] = ()
    scope: str = ""


def flat_calls(graph: onnx.GraphProto) -> tuple[list[FlatCall], set[str]]:
    """Return the calls of a graph and its branches, and the names of the initializers in them."""
    calls: list[FlatCall] = []
    stored: set[str] = set()
    _walk(graph, "", {}, calls, stored)
    return calls, stored


def _walk(
    graph: onnx.GraphProto,
    scope: str,
    outer: Mapping[str, str],
    calls: list[FlatCall],
    stored: set[str],
) -> list[str]:
    """Add the calls of one graph; returns its outputs under their names for the whole model."""
    constants = [t.name for t in graph.initializer]
    constants += [t.values.name for t in graph.sparse_initializer]
    names = dict(outer)
    if scope:
        made = [*constants, *(name for node in graph.node for name in node.output if name)]
        names |= {name: scope + name for name in made}
    stored.update(names.get(name, name) for name in constants)
    for node in graph.node:
        inputs = tuple(names.get(name, name) for name in node.input)
        outputs = tuple(names.get(name, name) for name in node.output)
        branches = branches_of(node)
        if branches is None:
            free = {names.get(n, n) for body in bodies(node) for n in free_values(body)}
            calls.append(FlatCall(node, inputs, outputs, tuple(sorted(free)), scope))
            continue
        results: list[str] = []
        for name, branch in branches.items():
            inner = branch_scope(scope, node.output[0], name)
            results += _walk(branch, inner, names, calls, stored)
        merge = onnx.NodeProto(op_type="If", name=node.name)
        calls.append(FlatCall(merge, (*inputs[:1], *results), outputs, (), scope))
    return [names.get(value.name, value.name) for value in graph.output]


def branches_of(node: onnx.NodeProto) -> dict[str, onnx.GraphProto] | None:
    """Return then and else of a well-formed If by attribute, None for anything else."""
    if node.op_type != "If" or node.domain not in _STANDARD_DOMAINS:
        return None
    found = {a.name: a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH}
    if set(found) != set(_BRANCHES) or not node.output:
        return None
    branches = {name: found[name] for name in _BRANCHES}
    fits = all(len(g.output) == len(node.output) and not g.input for g in branches.values())
    return branches if fits else None


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the sub-graphs of a node."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        found.extend(attribute.graphs)
        if attribute.HasField("g"):
            found.append(attribute.g)
    return found


def free_values(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a sub-graph reads from outside (If and Loop bodies capture freely)."""
    local = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    local |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input if name}
    read |= {v.name for v in graph.output}
    for node in graph.node:
        for body in bodies(node):
            read |= free_values(body)
    return read - local
