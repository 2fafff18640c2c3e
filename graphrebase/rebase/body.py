"""The body that two models have in common, from their structures: what orthogonal methods need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphrebase.align import Space
from graphrebase.align.body import (
    AttentionLayer,
    Body,
    Inputs,
    Linear,
    MlpLayer,
    Norm,
    Tower,
)
from graphrebase.errors import MismatchError
from graphrebase.graph import ShapeTable, infer_shapes
from graphrebase.rebase.ends import Stream, find_streams, head_roles, input_roles, paired_norms
from graphrebase.structure import Attention, Mlp, Structure
from graphrebase.structure.wiring import NormFacts, layer_scale, norm_facts, origin, rotary_pairs


@dataclass(frozen=True, slots=True)
class _Source:
    structure: Structure
    other: Structure
    names: Mapping[str, str] | None
    norms: Mapping[str, NormFacts]
    shapes: ShapeTable
    spaces: dict[str, Space]

    def linear(self, stem: str, axes: tuple[str | None, ...], outputs: int) -> Linear:
        """Return a linear map that reads a norm, or none."""
        if f"{stem}.weight" not in self.structure.roles:
            raise MismatchError(
                f"{stem} is not one linear map", where=str(self.structure.model.path),
                hint="use --method transfusion",
            )  # fmt: skip
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


def build_body(
    structure: Structure,
    other: Structure,
    *,
    residual: str = "per-point",
    names: Mapping[str, str] | None = None,
) -> Body:
    """Return the body of a model, with the heads that another model has too.

    Args:
        structure: A; B, where the two differ in size.
        other: B, of the same architecture; A, where the two differ in size.
        residual: ``per-point`` or ``shared``.
        names: A's roles by B's, where the two differ in size.

    Raises:
        MismatchError: the blocks do not form residual streams, or share weights.
    """
    _check_layers(structure)
    source = _source(structure, other, names)
    towers = [_tower(source, stream) for stream in find_streams(structure, residual)]
    found = {}
    if names is not None:
        pairs = zip(towers, find_streams(other, residual), strict=True)
        found = {p: stream.width for tower, stream in pairs for p in tower.points}
    return Body(source.spaces, tuple(towers), _hidden(source), found)


def _check_layers(structure: Structure) -> None:
    """Refuse layers whose maps cannot be found one by one."""
    where, hint = str(structure.model.path), "use --method transfusion"
    for block in structure.blocks:
        if isinstance(block, Mlp) and block.experts > 1:
            reason = (
                f"MLPs are mixtures of {block.experts} experts, which only permutations line up "
                f"({block.down.node})"
            )
            raise MismatchError(reason, where=where, hint=hint)
        if isinstance(block, Attention) and _has_own_form(block):
            reason = (
                f"{block.match.node} is not plain attention on a stream, and only permutations "
                "line it up"
            )
            raise MismatchError(reason, where=where, hint=hint)
    owners: dict[str, int] = {}
    for number, block in enumerate(structure.blocks):
        linear = block.output.linear if isinstance(block, Attention) else block.down
        if owners.setdefault(linear.weight.tensor, number) != number:
            reason = (
                "layers share their weights (as in ALBERT) and so need one basis for all, which "
                "only permutations have"
            )
            raise MismatchError(reason, where=where, hint=hint)


def _has_own_form(block: Attention) -> bool:
    """Tell whether matrices on the stream do not describe an attention layer.

    Keys with a part of their own, queries from a latent (DeepSeek-V2), projections in groups
    (SqueezeBERT), another mixer beside the heads (ConvBERT).
    """
    query, key, output = block.query, block.key, block.output
    apart = query.index.shape[1] != key.index.shape[1]
    latent = query.linear.in_width != output.linear.out_width
    grouped = any(linear.groups > 1 for linear in block.linears)
    return apart or latent or grouped or output.index.size != output.linear.in_width


def _source(
    structure: Structure, other: Structure, names: Mapping[str, str] | None = None
) -> _Source:
    shapes = infer_shapes(structure.graph)
    return _Source(structure, other, names, norm_facts(structure), shapes, {})


def _tower(source: _Source, stream: Stream) -> Tower:
    structure = source.structure
    layers: list[AttentionLayer | MlpLayer] = []
    width = 0
    centred = _centred(source, stream.blocks)
    for block, (before, after) in zip(stream.blocks, stream.edges, strict=True):
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
    for name in stream.points:
        source.space(Space(name, "residual", width))
    return Tower(
        stream.points,
        tuple(layers),
        _inputs(source, stream),
        tuple(_heads(source, stream.points[-1])),
        centred,
    )


def _centred(source: _Source, blocks: Sequence[Attention | Mlp]) -> bool:
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
    if source.names is not None:
        return name in source.names
    mine, theirs = (s.roles.get(name) for s in (source.structure, source.other))
    return mine is not None and theirs is not None and mine.view.shape == theirs.view.shape


def _inputs(source: _Source, stream: Stream) -> Inputs:
    found = input_roles(source.structure, stream)
    kept = (
        tuple(name for name in names if _shared(source, name))
        for names in (found.tables, found.filters, found.biases, found.tokens)
    )
    return Inputs(*kept)


def _heads(source: _Source, last: str) -> list[Linear]:
    found = []
    for name in head_roles(source.structure, last):
        if _shared(source, name):
            role = source.structure.roles[name]
            out = role.axes[0]
            if out is not None and out not in source.spaces:
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


def carried_heads(
    finetuned: Structure, body: Body, target: Structure | None = None
) -> dict[str, Linear]:
    """Return the linear maps of the fine-tuned model's heads that read the stream, by stem.

    Args:
        finetuned: A_ft.
        body: what A and B have in common.
        target: B, where the body is B's because the two differ in size.
    """
    source, found = _source(finetuned, finetuned), {}
    own = find_streams(finetuned) if target is not None else [None] * len(body.towers)
    for number, (tower, stream) in enumerate(zip(body.towers, own, strict=True)):
        last = tower.points[-1] if stream is None else stream.points[-1]
        for name in head_roles(finetuned, last):
            stem = name.removesuffix(".weight")
            linear = source.linear(stem, (None, tower.points[-1]), 1)
            if target is not None and stream is not None:
                linear = _renamed(linear, target, number, finetuned, stream)
            found[stem] = linear
    return found


def _renamed(
    linear: Linear, target: Structure, number: int, finetuned: Structure, stream: Stream
) -> Linear:
    """Return a head of A_ft with the name of the norm that it will read in B."""
    if linear.norm is None:
        return linear
    names = paired_norms(finetuned, stream, target, find_streams(target)[number])
    gain, bias = (None if r is None else names.get(r) for r in (linear.norm.gain, linear.norm.bias))
    return replace(linear, norm=Norm(gain, bias, linear.norm.centred))
