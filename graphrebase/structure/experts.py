"""Mixtures of experts: linear maps whose weights a router's numbers look up, and their roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from graphrebase.align import Space
from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.structure.linear import Linear
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.roles import Role, RoleAxes
from graphrebase.structure.spaces import SpaceTable
from graphrebase.structure.views import View
from graphrebase.symmetry.axes import Axis, Fibre, Leaf

_NARROW = {"Reshape", "Squeeze", "Unsqueeze"}
#: What may stand between a router and the numbers of its experts.
_ROUTING = {
    *("Add", "Cast", "Div", "Flatten", "Mul", "Reshape", "Sigmoid", "Softmax", "Squeeze", "TopK"),
    "Unsqueeze",
}
#: Weights stored (expert, in, out) are viewed element by element up to this many.
_TURNED_LIMIT = 1 << 24


def find_expert_linears(graph: Graph, shapes: ShapeTable) -> list[Linear]:
    """Return the linear maps of experts: one map per expert in a constant of rank 3.

    The exported form is batched: every token's own matrix times its column, (t, out, in) x
    (t, in, 1), or its row times the matrix, (t, 1, in) x (t, in, out).
    """
    found = []
    for node in graph.nodes:
        if node.op_type == "MatMul" and not node.domain:
            linear = _expert_linear(graph, shapes, node)
            if linear is not None:
                found.append(linear)
    return found


def _expert_linear(graph: Graph, shapes: ShapeTable, node: Node) -> Linear | None:
    for slot in (0, 1):
        table = _looked_up(graph, node.inputs[slot], 3)
        if table is None:
            continue
        source = graph.producers.get(node.inputs[1 - slot])
        users = graph.users(node.outputs[0])
        if source is None or source.op_type not in _NARROW or len(users) != 1:
            return None
        if users[0].node.op_type not in _NARROW:
            return None
        view = _view(table, graph.constants[table].shape, turned=slot == 1)
        product = users[0].node.outputs[0]
        if view is None or len(shapes.shape(product) or ()) != 2:
            return None
        bias, output = _following_bias(graph, product)
        experts = graph.constants[table].shape[0]
        return Linear(node, view, bias, source.inputs[0], product, output, slot, experts)
    return None


def _looked_up(graph: Graph, value: str, rank: int) -> str | None:
    """Return the constant that a value is rows of, looked up by computed numbers."""
    node = graph.producers.get(value)
    if node is None or node.op_type not in ("Gather", "GatherND"):
        return None
    if node.attributes.get("axis", 0) or node.attributes.get("batch_dims", 0):
        return None
    name = node.inputs[0]
    if name not in graph.constants or graph.is_constant(node.inputs[1]):
        return None
    return name if len(graph.constants[name].shape) == rank else None


def _view(name: str, shape: tuple[int, ...], *, turned: bool) -> View | None:
    """Return the view of all experts' maps as (experts * out, in)."""
    experts, rows, columns = shape
    if not turned:
        return View(name, (experts * rows, columns), shape=(experts * rows, columns))
    if experts * rows * columns > _TURNED_LIMIT:
        return None
    flat = np.arange(experts * rows * columns).reshape(shape).transpose(0, 2, 1).reshape(-1)
    matrix = (experts * columns, rows)
    return View(name, matrix, flat=flat, shape=matrix)


def _following_bias(graph: Graph, product: str) -> tuple[View | None, str]:
    users = graph.users(product)
    if len(users) == 1 and users[0].node.op_type == "Add":
        node = users[0].node
        name = _looked_up(graph, node.inputs[1 - users[0].position], 2)
        if name is not None:
            shape = graph.constants[name].shape
            return View(name, shape, shape=shape), node.outputs[0]
    return None, product


def find_router(graph: Graph, mlp: Mlp, linears: Mapping[str, Linear]) -> Linear | None:
    """Return the linear map whose scores choose the experts of an MLP."""
    stack = [graph.producers[mlp.down.node.inputs[mlp.down.weight_slot]].inputs[1]]
    seen = set(stack)
    while stack:
        value = stack.pop()
        if value in linears:
            return linears[value]
        node = graph.producers.get(value)
        if node is None or node.op_type not in _ROUTING:
            continue
        fresh = [n for n in node.inputs if n and n not in seen and not graph.is_constant(n)]
        seen.update(fresh)
        stack.extend(fresh)
    return None


def expert_roles(table: SpaceTable, mlp: Mlp, router: Linear | None, index: int) -> Iterable[Role]:
    """Yield the roles of experts: up and gate (E, M, D), down (E, D, M), router (E, D)."""
    expert, hidden = _spaces(table, mlp, index)
    prefix = f"block.{index}.mlp"
    maps = [("up", mlp.up, mlp.up_index)]
    if mlp.gate is not None and mlp.gate_index is not None:
        maps.append(("gate", mlp.gate, mlp.gate_index))
    for letter, linear, rows in maps:
        axes: RoleAxes = (expert, hidden, table.last(linear.input))
        yield from _map_roles(f"{prefix}.{letter}", linear, rows, axes)
    rows = np.arange(mlp.down.out_width)
    axes = (expert, table.last(mlp.down.output), hidden)
    yield from _map_roles(f"{prefix}.down", mlp.down, rows, axes)
    if router is not None:
        order = router.node.index
        reads = table.last(router.input)
        yield Role(f"{prefix}.router.weight", "mlp", router.weight, (expert, reads), order)
        if router.bias is not None:
            yield Role(f"{prefix}.router.bias", "mlp", router.bias, (expert,), order)


def _map_roles(name: str, linear: Linear, rows: np.ndarray, axes: RoleAxes) -> Iterable[Role]:
    experts, width, order = linear.experts, linear.out_width, linear.node.index
    whole = np.array_equal(rows, np.arange(width))
    every = (np.arange(experts)[:, None] * width + rows).reshape(-1)
    shape = (experts, len(rows), linear.in_width)
    weight = linear.weight.picked(None if whole else every).shaped(shape)
    yield Role(f"{name}.weight", "mlp", weight, axes, order, linear.input, linear.output)
    if linear.bias is not None:
        bias = linear.bias.picked(None, None if whole else rows).shaped(shape[:2])
        yield Role(f"{name}.bias", "mlp", bias, axes[:2], order)


def _spaces(table: SpaceTable, mlp: Mlp, index: int) -> tuple[str | None, str | None]:
    """Register the experts, and the hidden units inside each of them."""
    name = mlp.down.weight.tensor
    stored = table.symmetry.constants.get(name)
    values = table.symmetry.values.get(mlp.down.input)
    if not stored or not values:
        return None, None
    experts, count = stored[0], mlp.down.experts
    expert = None
    if isinstance(experts.form, Leaf) and experts.length > 1:
        expert = table.add(Space(f"block.{index}.expert", "expert", count), [experts])
    units = table.symmetry.solver.factors(values[-1])[0]
    members = units.form.members if isinstance(units.form, Fibre) else (units,)
    free: list[Axis] = [m for m in members if isinstance(m.form, Leaf)]
    if len(free) != len(members) or not free:
        return expert, None
    label = f"block.{index}.mlp"
    if len(free) == 1:
        return expert, table.add(Space(label, "mlp", mlp.width), free)
    if expert is not None and len({a.root for a in free}) == count:
        return expert, table.add(Space(label, "mlp", mlp.width, over=expert, count=count), free)
    for axis in free:
        table.partial[axis.root] = (label, "mlp")
    return expert, None
