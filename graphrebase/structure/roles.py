"""Roles: every learned constant of a model under a structural name, with the spaces of its axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphrebase.align import Space
from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.pattern import Match
from graphrebase.io import TensorRef
from graphrebase.structure.blocks import Attention, Given, Projection
from graphrebase.structure.linear import Linear
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.residual import Residual
from graphrebase.structure.views import View, constant_view
from graphrebase.symmetry import Symmetry
from graphrebase.symmetry.axes import Axis, Fibre, Leaf, Product, Sum, flat_parts, leaves

RoleAxes = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """One canonical array of a model.

    Attributes:
        name: structural name, the same in every model of the architecture.
        kind: attention, mlp, norm, embedding, head or other.
        view: where it is stored.
        axes: space per canonical axis; None keeps its order.
        order: position of its use in the graph.
        reads, writes: values that a linear map takes in and gives; empty for other roles.
    """

    name: str
    kind: str
    view: View
    axes: RoleAxes
    order: int
    reads: str = ""
    writes: str = ""


@dataclass(slots=True)
class SpaceTable:
    """Spaces by name, and the free axes of the algebra that each stands for.

    A space that hangs on a head space has one free axis per head. ``partial`` has the name and kind
    of free axes that are only a part of an axis (what rotary positions pass through): a symmetry
    of the model, but no space of its own.
    """

    symmetry: Symmetry
    spaces: dict[str, Space] = field(default_factory=dict)
    leaves: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    names: dict[Axis, str] = field(default_factory=dict)
    partial: dict[Axis, tuple[str, str]] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    def add(self, space: Space, axes: Sequence[Axis]) -> str:
        """Register a space for free axes; returns the name that they already have, if any."""
        known = self.names.get(axes[0].root)
        if known is not None:
            return known
        self.spaces[space.name] = space
        self.leaves[space.name] = tuple(a.root for a in axes)
        for axis in axes:
            self.names[axis.root] = space.name
        return space.name

    def name(self, axis: Axis | None) -> str | None:
        """Return the space of an axis that is one free axis; a hidden space is made if needed."""
        if axis is None or not isinstance(axis.form, Leaf) or axis.length < 2:
            return None
        if axis.root in self.partial:
            return None  # the projections of the attention do not follow it
        known = self.names.get(axis.root)
        if known is not None:
            return known
        number = sum(1 for s in self.spaces if s.startswith("hidden."))
        return self.add(Space(f"hidden.{number}", "mlp", axis.length), [axis])

    def last(self, value: str) -> str | None:
        """Return the space of a value's last axis."""
        axes = self.symmetry.values.get(value)
        return self.name(axes[-1]) if axes else None

    def read(self, linear: Linear) -> str | None:
        """Return the space of a linear map's input channels."""
        return self._one(linear.input, linear.reads)

    def given(self, linear: Linear) -> str | None:
        """Return the space of a linear map's output channels."""
        return self._one(linear.output, linear.gives)

    def _one(self, value: str, channels: tuple[int, ...]) -> str | None:
        axes = self.symmetry.values.get(value)
        return self.name(axes[channels[0]]) if axes and len(channels) == 1 else None


@dataclass(frozen=True, slots=True)
class AttentionSpaces:
    """Spaces of one attention layer; None where the axis must keep its order."""

    head: str | None
    member: str | None
    query_key: str | None
    value_output: str | None


def attention_spaces(table: SpaceTable, layer: Attention, index: int) -> AttentionSpaces:
    """Register and return the spaces of attention layer ``index``."""
    symmetry = table.symmetry
    parts = layer.match.parts
    query = _static_factors(symmetry, layer.canonical(symmetry.values.get(parts["query"]), "query"))
    value = _static_factors(symmetry, layer.canonical(symmetry.values.get(parts["value"]), "value"))
    kv = layer.kv_heads
    if not query or not value:
        return AttentionSpaces(None, None, None, None)
    head_axis = _head_axis(value, kv)
    member_axis = _member_axis(query, layer)
    head = None
    if head_axis is not None and kv > 1:
        free = isinstance(head_axis.form, Leaf)
        head = table.add(Space(f"block.{index}.head", "head", kv), [head_axis])
        if not free:
            table.fixed.add(head)
    member = _inner(table, member_axis, f"block.{index}.head_member", "head_member", head, kv)
    query_key = _inner(table, query[-1], f"block.{index}.head_qk", "head_qk", head, kv)
    value_output = _inner(table, value[-1], f"block.{index}.head_vo", "head_vo", head, kv)
    return AttentionSpaces(head, member, query_key, value_output)


def _head_axis(value: Sequence[Axis], kv: int) -> Axis | None:
    """Return the axis of key-value heads; a static batch may have their number too."""
    inner = value[-1].form
    if isinstance(inner, Fibre):
        return inner.over if inner.over.length == kv else None
    fitting = [f for f in value[:-1] if f.length == kv and not isinstance(f.form, Fibre)]
    return next((f for f in fitting if isinstance(f.form, Leaf)), fitting[0] if fitting else None)


def _member_axis(query: Sequence[Axis], layer: Attention) -> Axis | None:
    """Return the axis of the query heads inside a key-value head, if there are several."""
    if layer.heads == layer.kv_heads:
        return None
    if layer.kv_heads == 1:
        lead = (f for f in query[:-1] if f.length == layer.heads and isinstance(f.form, Leaf))
        return next(lead, None)
    return next((f for f in query[:-1] if isinstance(f.form, Fibre)), None)


def _static_factors(symmetry: Symmetry, axes: Sequence[Axis]) -> list[Axis]:
    flat = [f for axis in axes for f in symmetry.solver.factors(axis)]
    return [f for f in flat if f.size[0] == f.size[1] and f.length > 1]


def _inner(
    table: SpaceTable, axis: Axis | None, name: str, kind: str, head: str | None, kv: int
) -> str | None:
    """Register a space inside each head: the members of a fibre over the heads."""
    if axis is None:
        return None
    form = axis.form
    if isinstance(form, Leaf) and (kv == 1 or head is not None):
        # One head, or one order for all of them (a norm or position table that heads share).
        return table.add(Space(name, kind, axis.length), [axis])  # type: ignore[arg-type]
    members = form.members if isinstance(form, Fibre) else ()
    apart = {m.root for m in members if isinstance(m.form, Leaf)}
    if len(members) != kv or len(apart) != kv or head is None:
        for part in _own(axis, members):
            table.partial.setdefault(part.root, (name, kind))
        return None
    space = Space(name, kind, axis.length, over=head, count=kv)  # type: ignore[arg-type]
    return table.add(space, members)


def _own(axis: Axis, members: Sequence[Axis]) -> Iterable[Axis]:
    """Return the free axes that belong to this axis, not to a table that all heads share.

    Rotary pairs in a table of sines may change places together with the table, in all layers.
    """
    if isinstance(axis.form, Leaf):
        return [axis]
    inside = [set(leaves(member)) for member in members]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    return [part for part in leaves(axis) if part.length > 1 and part not in shared]


def attention_roles(table: SpaceTable, layer: Attention, index: int) -> Iterable[Role]:
    """Yield the roles of one attention layer in canonical shapes: (kv, [g,] d, D) and so on."""
    spaces = attention_spaces(table, layer, index)
    kv, group = layer.kv_heads, layer.heads // layer.kv_heads
    order = np.argsort(layer.kv_of, kind="stable")
    lead = (kv,) if group == 1 else (kv, group)
    heads: RoleAxes = (spaces.head,) if group == 1 else (spaces.head, spaces.member)
    prefix = f"block.{index}.attention"
    members: dict[str, tuple[Projection | Given, np.ndarray, tuple[int, ...], RoleAxes]] = {
        "q": (layer.query, layer.query.index[order], lead, (*heads, spaces.query_key)),
        "k": (layer.key, layer.key.index, (kv,), (spaces.head, spaces.query_key)),
        "v": (layer.value, layer.value.index, (kv,), (spaces.head, spaces.value_output)),
    }
    for letter, (projection, rows, shape, axes) in members.items():
        if isinstance(projection, Given):
            continue
        yield from _projection_roles(table, f"{prefix}.{letter}", projection, rows, shape, axes)
    yield from _output_roles(
        table, f"{prefix}.o", layer.output, order, lead, (*heads, spaces.value_output)
    )


def _projection_roles(
    table: SpaceTable,
    name: str,
    projection: Projection,
    rows: np.ndarray,
    lead: tuple[int, ...],
    axes: RoleAxes,
) -> Iterable[Role]:
    linear = projection.linear
    shape = (*lead, rows.shape[-1])
    picked = _or_all(rows.reshape(-1), linear.out_width)
    weight = linear.weight.picked(picked).shaped((*shape, linear.in_width))
    yield Role(
        f"{name}.weight",
        "attention",
        weight,
        (*axes, table.read(linear)),
        linear.node.index,
        linear.input,
        linear.output,
    )
    if linear.bias is not None:
        yield Role(
            f"{name}.bias",
            "attention",
            linear.bias.picked(picked).shaped(shape),
            axes,
            linear.node.index,
        )


def _output_roles(
    table: SpaceTable,
    name: str,
    projection: Projection,
    order: np.ndarray,
    lead: tuple[int, ...],
    axes: RoleAxes,
) -> Iterable[Role]:
    linear, index = projection.linear, projection.index
    columns = _or_all(index[order].reshape(-1), linear.in_width)
    shape = (linear.out_width, *lead, index.shape[-1])
    out = table.given(linear)
    weight = linear.weight.picked(None, columns).shaped(shape)
    yield Role(
        f"{name}.weight",
        "attention",
        weight,
        (out, *axes),
        linear.node.index,
        linear.input,
        linear.output,
    )
    if linear.bias is not None:
        yield Role(f"{name}.bias", "attention", linear.bias, (out,), linear.node.index)


def mlp_roles(table: SpaceTable, mlp: Mlp, index: int) -> Iterable[Role]:
    """Yield the roles of one MLP: up and gate (M, D), down (D, M), biases."""
    axes = table.symmetry.values.get(mlp.down.input)
    units = axes[mlp.down.reads[0]] if axes and len(mlp.down.reads) == 1 else None
    hidden = None
    if units is not None and isinstance(units.form, Leaf):
        hidden = table.add(Space(f"block.{index}.mlp", "mlp", mlp.width), [units])
    prefix = f"block.{index}.mlp"
    parts = [("up", mlp.up, mlp.up_index)]
    if mlp.gate is not None and mlp.gate_index is not None:
        parts.append(("gate", mlp.gate, mlp.gate_index))
    for letter, linear, rows in parts:
        picked = _or_all(rows, linear.out_width)
        weight = linear.weight.picked(picked).shaped((len(rows), linear.in_width))
        yield Role(
            f"{prefix}.{letter}.weight",
            "mlp",
            weight,
            (hidden, table.read(linear)),
            linear.node.index,
            linear.input,
            linear.output,
        )
        if linear.bias is not None:
            bias = linear.bias.picked(picked).shaped((len(rows),))
            yield Role(f"{prefix}.{letter}.bias", "mlp", bias, (hidden,), linear.node.index)
    yield from linear_roles(table, mlp.down, f"{prefix}.down", "mlp", inside=hidden)


def linear_roles(
    table: SpaceTable, linear: Linear, name: str, kind: str, inside: str | None = None
) -> Iterable[Role]:
    """Yield weight (out, in) and bias of a plain linear map."""
    if linear.node.op_type == "Conv":
        out = table.given(linear)
        reads = (inside or table.read(linear)) if linear.pointwise else None
    else:
        out, reads = table.given(linear), inside or table.read(linear)
    yield Role(
        f"{name}.weight",
        kind,
        linear.weight,
        (out, reads),
        linear.node.index,
        linear.input,
        linear.output,
    )
    if linear.bias is not None:
        yield Role(f"{name}.bias", kind, linear.bias, (out,), linear.node.index)


def norm_roles(
    table: SpaceTable, graph: Graph, shapes: ShapeTable, match: Match, name: str
) -> Iterable[Role]:
    """Yield gain and bias of a norm."""
    space = table.last(match.parts["output"])
    for part in ("gain", "bias"):
        view = constant_view(graph, shapes, match.parts[part]) if part in match.parts else None
        if view is not None and view.matrix != (1,):
            flat = view.shaped((int(np.prod(view.shape)),))
            kind = "head" if name.startswith("head.") else "norm"
            yield Role(f"{name}.{part}", kind, flat, (space,), match.node.index)


def embedding_roles(
    table: SpaceTable, graph: Graph, sources: Mapping[str, str], node: Node
) -> Iterable[Role]:
    """Yield the role of a table whose rows are looked up, named after the input that looks."""
    name = node.inputs[0]
    ref = graph.constants.get(name)
    if ref is None or len(ref.shape) != 2 or not table.symmetry.holds_numbers(name):
        return
    view = View(name, ref.shape, shape=ref.shape)
    axes = table.symmetry.uses.get((node.index, 0)) or table.symmetry.values.get(node.outputs[0])
    axis = axes[-1] if axes else None
    source = sources.get(node.inputs[1])
    label = source or table_label(ref.shape)
    yield Role(f"embedding.{label}", "embedding", view, (None, table.name(axis)), node.index)


def table_label(shape: Sequence[int]) -> str:
    """Return the name of a table of positions, which exporters look up, add or slice."""
    return "table." + "x".join(map(str, shape))


def other_roles(table: SpaceTable, graph: Graph, claimed: set[str]) -> Iterable[Role]:
    """Yield every remaining float constant, named by shape and order of use."""
    counts: dict[tuple[int, ...], int] = {}
    for name, ref, node_index, position in _remaining(table, graph, claimed):
        shape = tuple(n for n in ref.shape if n != 1)
        axes = table.symmetry.uses.get((node_index, position))
        spaces = tuple(table.name(a) for a in axes) if axes else (None,) * len(ref.shape)
        kept = tuple(s for s, n in zip(spaces, ref.shape, strict=True) if n != 1)
        view = View(name, (math.prod(ref.shape),), shape=shape)
        if len(shape) == 2 and kept[0] is None and (kept[1] or "").startswith("residual"):
            yield Role(f"embedding.{table_label(shape)}", "embedding", view, kept, node_index)
            continue
        number = counts.get(shape, 0)
        counts[shape] = number + 1
        label = "x".join(map(str, shape))
        yield Role(f"other.{label}.{number}", "other", view, kept, node_index)


def _remaining(
    table: SpaceTable, graph: Graph, claimed: set[str]
) -> Iterable[tuple[str, TensorRef, int, int]]:
    seen: set[str] = set()
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            ref = graph.constants.get(name)
            if ref is None or name in claimed or name in seen:
                continue
            if not table.symmetry.holds_numbers(name):
                continue
            seen.add(name)
            if int(np.prod(ref.shape, dtype=np.int64)) > 1:
                yield name, ref, node.index, position


def residual_space(
    table: SpaceTable, residual: Residual, before: str, after: str
) -> tuple[str | None, str | None]:
    """Register the points before and after a block; returns their spaces.

    A stream of parts (learned positions of a column beside those of a row) has a space for each.
    """
    values = table.symmetry.values
    names: list[str | None] = []
    for value, name in (
        (residual.node.inputs[residual.skip], before),
        (residual.node.outputs[0], after),
    ):
        axis = _channels_of(values.get(value, ()), residual.channels)
        free = axis is not None and isinstance(axis.form, Leaf)
        if isinstance(axis, Axis) and isinstance(axis.form, Product):
            # A grouped convolution keeps groups of channels together.
            for factor in axis.form.factors:
                grouped = isinstance(factor.form, Fibre)
                label = (name, "residual") if grouped else (f"{name}.groups", "hidden")
                for part in leaves(factor):
                    table.partial.setdefault(part.root, label)
        if isinstance(axis, Axis) and isinstance(axis.form, Sum):
            for number, part in enumerate(flat_parts(axis.form)):
                if isinstance(part.form, Leaf) and part.length > 1:
                    table.add(Space(f"{name}.part.{number}", "residual", part.length), [part])
        names.append(
            table.add(Space(name, "residual", axis.length), [axis]) if axis and free else None
        )
    return names[0], names[1]


def _channels_of(axes: Sequence[Axis], position: int) -> Axis | None:
    return axes[position] if axes else None


def _or_all(index: np.ndarray, size: int) -> np.ndarray | None:
    """Return None for an index that is everything in order."""
    return None if np.array_equal(index, np.arange(size)) else index
