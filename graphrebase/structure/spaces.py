"""Spaces: the interchangeable indices of a model under structural names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphrebase.align import Space
from graphrebase.structure.blocks import Attention
from graphrebase.structure.linear import Linear
from graphrebase.structure.residual import Residual
from graphrebase.symmetry import Symmetry
from graphrebase.symmetry.axes import Axis, Fibre, Leaf, Product, Sum, flat_parts, leaves


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

    def label_factors(self, axis: Axis, name: str, kind: str) -> None:
        """Name the free factors of an axis that moves as a grid only.

        A grouped convolution keeps groups of channels together and their channels move inside
        them; a weight of a few bits keeps blocks of numbers that share a scale.
        """
        if not isinstance(axis.form, Product):
            return
        grouped = any(isinstance(factor.form, Fibre) for factor in axis.form.factors)
        for factor in axis.form.factors:
            outer = grouped and not isinstance(factor.form, Fibre)
            for part in leaves(factor):
                label = (f"{name}.groups", "hidden") if outer else (name, kind)
                self.partial.setdefault(part.root, label)

    def read(self, linear: Linear) -> str | None:
        """Return the space of a linear map's input channels; grouped ones have none as a whole."""
        return self._one(linear.input, linear.reads) if linear.groups == 1 else None

    def given(self, linear: Linear) -> str | None:
        """Return the space of a linear map's output channels."""
        return self._one(linear.output, linear.gives)

    def parts(
        self, value: str, channels: tuple[int, ...], width: int
    ) -> list[tuple[str | None, int]]:
        """Return space and width of every part of a value's channels; one part, mostly.

        A map may give several things at once: DeepSeek-V2 makes a latent, whose units are free,
        beside keys that turn with the position.
        """
        axes = self.symmetry.values.get(value)
        axis = axes[channels[0]] if axes and len(channels) == 1 else None
        if axis is None or not isinstance(axis.form, Sum):
            return [(self.name(axis), width)]
        cells = flat_parts(axis.form)
        if not any(isinstance(cell.form, Leaf) and cell.length > 1 for cell in cells):
            return [(None, width)]
        return [(self.name(cell), cell.length) for cell in cells]

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
    member_axis = _member_axis(query, layer, head_axis)
    head = None
    if head_axis is not None and kv > 1:
        # Talking heads mix queries' heads into those of values: two orders, of which we keep both.
        free = isinstance(head_axis.form, Leaf) and _meets(head_axis, query)
        head = table.add(Space(f"block.{index}.head", "head", kv), [head_axis])
        if not free:
            table.fixed.add(head)
    grid = [leaves(f) for f in value[:-1]]
    if head_axis is None and all(grid) and math.prod(f.length for f in value[:-1]) == kv:
        for part in itertools.chain(*grid):  # heads in groups (SqueezeBERT)
            table.partial.setdefault(part.root, (f"block.{index}.head", "head"))
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


def _meets(head: Axis, query: Sequence[Axis]) -> bool:
    """Tell whether the heads of the queries are those of the values."""
    over = [f.form.over for f in query if isinstance(f.form, Fibre)]
    return any(axis.root is head.root for axis in (*query, *over))


def _member_axis(query: Sequence[Axis], layer: Attention, head: Axis | None) -> Axis | None:
    """Return the axis of the query heads inside a key-value head, if there are several.

    Where keys are repeated as a whole (Tile), it is the outer axis and one order for all heads.
    """
    if layer.heads == layer.kv_heads:
        return None
    if layer.kv_heads == 1:
        lead = (f for f in query[:-1] if f.length == layer.heads and isinstance(f.form, Leaf))
        return next(lead, None)
    inside = next((f for f in query[:-1] if isinstance(f.form, Fibre)), None)
    count, taken = layer.heads // layer.kv_heads, head.root if head is not None else None
    outer = (f for f in query[:-1] if isinstance(f.form, Leaf) and f.length == count)
    return inside or next((f for f in outer if f.root is not taken), None)


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
        if axis is not None:
            table.label_factors(axis, name, "residual")
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
