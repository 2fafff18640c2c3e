"""Branches of If written out in a model's own graph, where values inside them are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import onnx
from onnx import helper

from graphrebase.graph.flat import bodies, branches_of
from graphrebase.io import branch_scope


def with_branches(graph: onnx.GraphProto, values: Set[str]) -> onnx.GraphProto:
    """Return a graph in which every If that holds some values gives way to the branch they are in.

    Values of a branch have the names that the view has for them (`flat_calls`). An If of which
    values in both branches are asked for stays as it is.

    Args:
        graph: a model's graph; returned as it is where there is nothing to write out.
        values: names in the view.
    """
    if not any(_way(node, "", values) for node in graph.node):
        return graph
    result = onnx.GraphProto()
    result.CopyFrom(graph)
    del result.node[:]
    result.node.extend(_written(graph, "", {}, values, result))
    return result


def _written(
    graph: onnx.GraphProto,
    scope: str,
    outer: Mapping[str, str],
    values: Set[str],
    whole: onnx.GraphProto,
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph under their names for the whole model.

    Args:
        graph: the model's or a branch's.
        scope: its prefix.
        outer: names outside, by what the branch calls them.
        values: what is asked for.
        whole: takes the initializers of branches.
    """
    names = dict(outer)
    if scope:
        constants = [t.name for t in graph.initializer]
        made = [*constants, *(name for node in graph.node for name in node.output if name)]
        names |= {name: scope + name for name in made}
        for tensor in graph.initializer:
            whole.initializer.add().CopyFrom(tensor)
            whole.initializer[-1].name = scope + tensor.name
    for node in graph.node:
        way = _way(node, scope, values)
        if way is None:
            yield _renamed(node, names) if names else node
            continue
        branch, inner = way
        yield from _written(branch, inner, names, values, whole)
        local = {t.name for t in branch.initializer} | {n for x in branch.node for n in x.output}
        for output, value in zip(node.output, branch.output, strict=True):
            source = (
                inner + value.name if value.name in local else names.get(value.name, value.name)
            )
            yield helper.make_node("Identity", [source], [names.get(output, output)])


def _way(node: onnx.NodeProto, scope: str, values: Set[str]) -> tuple[onnx.GraphProto, str] | None:
    """Return the branch of an If that holds all values asked for inside it, and its prefix."""
    found = []
    for name, branch in (branches_of(node) or {}).items():
        inner = branch_scope(scope, node.output[0], name)
        if any(value.startswith(inner) for value in values):
            found.append((branch, inner))
    return found[0] if len(found) == 1 else None


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node under other names, in its sub-graphs too."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.input[:] = [names.get(name, name) for name in node.input]
    result.output[:] = [names.get(name, name) for name in node.output]
    for body in bodies(result):
        _rename_free(body, names)
    return result


def _rename_free(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename what a sub-graph reads from outside; names of its own hide those outside."""
    local = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    local |= {name for node in graph.node for name in node.output}
    free = {name: new for name, new in names.items() if name not in local}
    for node in graph.node:
        node.input[:] = [free.get(name, name) for name in node.input]
        for body in bodies(node):
            _rename_free(body, free)
    for value in graph.output:
        value.name = free.get(value.name, value.name)
