"""Roles: every learned constant of a model under a structural name, with the spaces of its axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphrebase.align import Space
from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.pattern import Match
from graphrebase.io import TensorRef
from graphrebase.structure.blocks import Attention, Given, Projection
from graphrebase.structure.linear import Linear
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.spaces import SpaceTable, attention_spaces
from graphrebase.structure.views import View, constant_view
from graphrebase.symmetry.axes import Leaf

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


def attention_roles(table: SpaceTable, layer: Attention, index: int) -> Iterable[Role]:
    """Yield the roles of one attention layer in canonical shapes: (kv, [g,] d, D) and so on."""
    spaces = attention_spaces(table, layer, index)
    kv, group = layer.kv_heads, layer.heads // layer.kv_heads
    order = np.argsort(layer.kv_of, kind="stable")
    lead = (kv,) if group == 1 else (kv, group)
    heads: RoleAxes = (spaces.head,) if group == 1 else (spaces.head, spaces.member)
    prefix = f"block.{index}.attention"
    alike = layer.query.index.shape[1] == layer.key.index.shape[1]
    inner = spaces.query_key if alike else None  # a part of the keys comes from elsewhere
    members: dict[str, tuple[Projection | Given, np.ndarray, tuple[int, ...], RoleAxes]] = {
        "q": (layer.query, layer.query.index[order], lead, (*heads, inner)),
        "k": (layer.key, layer.key.index, (kv,), (spaces.head, inner)),
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
    weight = linear.weight.picked(picked).shaped((*shape, linear.weight.shape[1]))
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
    if linear.groups > 1:
        yield from linear_roles(table, linear, name, "attention")
        return
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
    rest = np.setdiff1d(np.arange(linear.in_width), index)
    if rest.size:  # what another mixer of tokens brings (ConvBERT) keeps its order
        view = linear.weight.picked(None, rest).shaped((linear.out_width, rest.size))
        yield Role(f"{name}.rest.weight", "attention", view, (out, None), linear.node.index)
    if linear.bias is not None:
        yield Role(f"{name}.bias", "attention", linear.bias, (out,), linear.node.index)


def mlp_roles(table: SpaceTable, mlp: Mlp, index: int) -> Iterable[Role]:
    """Yield the roles of one MLP: up and gate (M, D), down (D, M), biases."""
    axes = table.symmetry.values.get(mlp.down.input)
    units = axes[mlp.down.reads[0]] if axes and len(mlp.down.reads) == 1 else None
    hidden = None
    if units is not None and isinstance(units.form, Leaf):
        hidden = table.add(Space(f"block.{index}.mlp", "mlp", mlp.width), [units])
    elif units is not None:
        table.label_factors(units, f"block.{index}.mlp", "mlp")
    prefix = f"block.{index}.mlp"
    parts = [("up", mlp.up, mlp.up_index)]
    if mlp.gate is not None and mlp.gate_index is not None:
        parts.append(("gate", mlp.gate, mlp.gate_index))
    for letter, linear, rows in parts:
        picked = _or_all(rows, linear.out_width)
        weight = linear.weight.picked(picked).shaped((len(rows), linear.weight.shape[1]))
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
    """Yield weight (out, in) and bias of a plain linear map, part by part where it has several."""
    order = linear.node.index
    outputs = table.parts(linear.output, linear.gives, linear.out_width)
    inputs = [(inside, linear.weight.shape[1])]
    if inside is None and linear.pointwise and linear.groups == 1:
        inputs = table.parts(linear.input, linear.reads, linear.in_width)
    several = len(outputs) > 1 or len(inputs) > 1
    number, top = 0, 0
    for out, height in outputs:
        rows = np.arange(top, top + height)
        left = 0
        for reads, width in inputs:
            stem = f"{name}.{number}" if several else name
            columns = np.arange(left, left + width)
            picked = _or_all(rows, linear.out_width), _or_all(columns, linear.weight.shape[1])
            view = linear.weight.picked(*picked).shaped((height, width)) if several else None
            yield Role(
                f"{stem}.weight",
                kind,
                view or linear.weight,
                (out, reads),
                order,
                linear.input,
                linear.output,
            )
            if linear.bias is not None and left == 0:
                bias = linear.bias.picked(picked[0]).shaped((height,)) if several else None
                yield Role(f"{stem}.bias", kind, bias or linear.bias, (out,), order)
            number, left = number + 1, left + width
        top += height


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
        # A constant that is cast or dequantised first is not what this node reads itself.
        axes = table.symmetry.uses.get((node_index, position)) or table.symmetry.constants.get(name)
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


def _or_all(index: np.ndarray, size: int) -> np.ndarray | None:
    """Return None for an index that is everything in order."""
    return None if np.array_equal(index, np.arange(size)) else index
