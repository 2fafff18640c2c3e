"""The body that two models have in common, from their structures: what orthogonal methods need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.align import Space
from graphrebase.align.body import (
    AttentionLayer,
    Body,
    FloatArray,
    Inputs,
    Linear,
    MlpLayer,
    Norm,
    Tower,
)
from graphrebase.errors import MismatchError, VerificationError
from graphrebase.graph import ShapeTable, infer_shapes
from graphrebase.structure import Attention, Mlp, Structure
from graphrebase.structure.wiring import NormFacts, layer_scale, norm_facts, origin, rotary_pairs


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads roles of one model as float64."""

    structure: Structure

    def __call__(self, role: str) -> FloatArray | None:
        """Return a role's array, None where the model lacks it.

        Raises:
            VerificationError: it is not finite.
        """
        if role not in self.structure.roles:
            return None
        values = np.asarray(self.structure.read(role), np.float64)
        if not np.isfinite(values).all():
            raise VerificationError(
                f"{role} holds NaN or infinite values",
                where=f"{self.structure.model.path}, "
                f"tensor '{self.structure.roles[role].view.tensor}'",
                hint="export the model again from a healthy checkpoint",
            )
        return values


@dataclass(frozen=True, slots=True)
class _Source:
    structure: Structure
    other: Structure
    norms: Mapping[str, NormFacts]
    shapes: ShapeTable
    spaces: dict[str, Space]

    def linear(self, stem: str, axes: tuple[str | None, ...], outputs: int) -> Linear:
        """Return a linear map that reads a norm, or none."""
        dual = frozenset(range(outputs, len(axes)))
        norm = origin(
            self.structure.graph, self.norms, self.structure.roles[f"{stem}.weight"].reads
        ).norm
        return Linear(stem, axes, dual, outputs, _plain(norm) if norm else None)

    def space(self, space: Space) -> str:
        """Register a space."""
        self.spaces[space.name] = space
        return space.name


def _plain(norm: NormFacts) -> Norm:
    return Norm(norm.gain, norm.bias, norm.centred)


def build_body(structure: Structure, other: Structure, *, residual: str = "per-point") -> Body:
    """Return the body of a model, with the heads that another model has too.

    Args:
        structure: A.
        other: B, of the same architecture.
        residual: ``per-point`` or ``shared``.

    Raises:
        MismatchError: the blocks do not form residual streams.
    """
    source = _Source(structure, other, norm_facts(structure), infer_shapes(structure.graph), {})
    numbers = sorted(set(structure.towers))
    towers, start = [], 0
    for number in numbers:
        blocks = [b for b, t in zip(structure.blocks, structure.towers, strict=True) if t == number]
        names = _point_names(len(blocks), start, residual, number if len(numbers) > 1 else None)
        start += len(blocks) + 1
        towers.append(_tower(source, blocks, names))
    return Body(source.spaces, tuple(towers), _hidden(source))


def _point_names(blocks: int, start: int, residual: str, tower: int | None) -> list[str]:
    if residual == "per-point":
        return [f"residual.{start + p}" for p in range(blocks + 1)]
    return ["residual" if tower is None else f"residual.{tower}"] * (blocks + 1)


def _tower(source: _Source, blocks: list[Attention | Mlp], names: list[str]) -> Tower:
    structure = source.structure
    layers: list[AttentionLayer | MlpLayer] = []
    width = 0
    centred = _centred(source, blocks)
    for block, before, after in zip(blocks, names, names[1:], strict=False):
        linear = block.output.linear if isinstance(block, Attention) else block.down
        if block.residual is None:
            raise MismatchError(
                f"{linear.node} does not end in a residual connection",
                where=str(structure.model.path),
                hint="use --method transfusion",
            )
        width = linear.out_width
        make = _attention if isinstance(block, Attention) else _mlp
        layer = make(source, block, before, after)  # type: ignore[arg-type]
        layers.append(_with_writer(source, block, layer, centred))
    for name in names:
        source.space(Space(name, "residual", width))
    return Tower(
        tuple(dict.fromkeys(names)),
        tuple(layers),
        _inputs(source, names[0], _start(blocks[0])),
        tuple(_heads(source, names[-1])),
        centred,
    )


def _centred(source: _Source, blocks: list[Attention | Mlp]) -> bool:
    readers = [b.query.linear if isinstance(b, Attention) else b.up for b in blocks]
    found = [origin(source.structure.graph, source.norms, r.input).norm for r in readers]
    return all(norm is not None and norm.centred for norm in found)


def _with_writer(
    source: _Source,
    block: Attention | Mlp,
    layer: AttentionLayer | MlpLayer,
    centred: bool,
) -> AttentionLayer | MlpLayer:
    """Complete the map that writes to the stream: LayerScale, the skip's norm bias, centring."""
    residual = block.residual
    skip = residual.node.inputs[residual.skip] if residual else ""
    norm = source.norms.get(skip)
    carried = None if norm is None else norm.bias
    scale = layer_scale(source.structure, block)
    writer = layer.o if isinstance(layer, AttentionLayer) else layer.down
    writer = replace(writer, scale=scale, carried=carried, centred=centred)
    if isinstance(layer, AttentionLayer):
        return replace(layer, o=writer)
    return replace(layer, down=writer)


def _attention(source: _Source, block: Attention, before: str, after: str) -> AttentionLayer:
    number = source.structure.attention.index(block)
    name, prefix = f"block.{number}", f"block.{number}.attention"
    kv, group = block.kv_heads, block.heads // block.kv_heads
    head = source.space(Space(f"{name}.head", "head", kv))
    sizes = (block.query.index.shape[1], block.value.index.shape[1])
    spaces = (
        source.space(Space(f"{name}.{kind}", kind, size, head, kv))  # type: ignore[arg-type]
        for kind, size in zip(("head_qk", "head_vo"), sizes, strict=True)
    )
    query_key, value_output = spaces
    heads: tuple[str, ...] = (head,)
    if group > 1:
        heads += (source.space(Space(f"{name}.head_member", "head_member", group, head, kv)),)
    key = source.linear(f"{prefix}.k", (head, query_key, before), 2)
    output = source.linear(f"{prefix}.o", (after, *heads, value_output), 1)
    return AttentionLayer(
        name,
        before,
        after,
        source.linear(f"{prefix}.q", (*heads, query_key, before), 1 + len(heads)),
        replace(key, dual=frozenset({1, 2})),
        source.linear(f"{prefix}.v", (head, value_output, before), 2),
        output,
        rotary_pairs(source.structure, source.shapes, block),
        _fixed(source, head),
    )


def _fixed(source: _Source, head: str) -> bool:
    return any(head in s.fixed or head not in s.spaces for s in (source.structure, source.other))


def _mlp(source: _Source, block: Mlp, before: str, after: str) -> MlpLayer:
    mlps = [b for b in source.structure.blocks if isinstance(b, Mlp)]
    name = f"block.{mlps.index(block)}"
    hidden = source.space(Space(f"{name}.mlp", "mlp", block.width))
    gate = None
    if block.gate is not None:
        source.space(Space(f"{name}.mlp_sign", "mlp", block.width))
        gate = source.linear(f"{name}.mlp.gate", (hidden, before), 1)
    return MlpLayer(
        name,
        before,
        after,
        source.linear(f"{name}.mlp.up", (hidden, before), 1),
        gate,
        source.linear(f"{name}.mlp.down", (after, hidden), 1),
    )


def _shared(source: _Source, name: str) -> bool:
    mine, theirs = (s.roles.get(name) for s in (source.structure, source.other))
    return mine is not None and theirs is not None and mine.view.shape == theirs.view.shape


def _start(block: Attention | Mlp) -> int:
    return (block.query.linear if isinstance(block, Attention) else block.up).node.index


def _inputs(source: _Source, first: str, stop: int) -> Inputs:
    """Sort the roles that write to the first point, before node ``stop``, by what they are."""
    tables, filters, biases, tokens = [], [], [], []
    for name, role in source.structure.roles.items():
        if not _shared(source, name) or first not in role.axes or role.order > stop:
            continue
        if role.kind == "embedding" and role.axes == (None, first):
            tables.append(name)
        elif role.kind == "embedding" and role.axes == (first, None):
            filters.append(name)
        elif role.kind == "embedding" and role.axes == (first,):
            biases.append(name)
        elif role.kind == "other" and role.axes == (first,):
            tokens.append(name)
    return Inputs(tuple(tables), tuple(filters), tuple(biases), tuple(tokens))


def _heads(source: _Source, last: str) -> list[Linear]:
    found = []
    for name, role in source.structure.roles.items():
        if role.kind != "head" or not name.endswith(".weight") or len(role.axes) != 2:
            continue
        if role.axes[1] == last and _shared(source, name):
            out = role.axes[0]
            if out is not None:
                source.space(Space(out, "mlp", role.view.shape[0]))
            found.append(source.linear(name.removesuffix(".weight"), (out, last), 1))
    return found


def _hidden(source: _Source) -> dict[str, tuple[str, ...]]:
    """Return, for spaces between two maps of a head, the roles of the second."""
    return {
        name: tuple(
            role.name
            for role in source.structure.roles.values()
            if role.axes == (None, name) and _shared(source, role.name)
        )
        for name in source.spaces
        if name.startswith("hidden.")
    }


def carried_heads(finetuned: Structure, body: Body) -> dict[str, Linear]:
    """Return heads on the residual stream that only the fine-tuned model has, by stem."""
    last = {tower.points[-1] for tower in body.towers}
    source = _Source(finetuned, finetuned, norm_facts(finetuned), infer_shapes(finetuned.graph), {})
    found = {}
    for name, role in finetuned.roles.items():
        stem = name.removesuffix(".weight")
        ends = role.axes[-1] if len(role.axes) == 2 else None
        if role.kind == "head" and stem != name and ends in last and stem not in body.linears:
            found[stem] = source.linear(stem, (None, ends), 1)
    return found
