"""What ``inspect`` tells about a model, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from graphrebase.structure.blocks import Attention, Projection
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.model import Structure
from graphrebase.structure.streams import origins
from graphrebase.symmetry.axes import (
    Axis,
    Fibre,
    Leaf,
    Product,
    Sum,
    flat_parts,
    leaves,
)
from graphrebase.symmetry.groups import frozen_reasons


def summary(structure: Structure) -> dict[str, Any]:
    """Return blocks, groups, frozen axes, coverage and near misses of a model.

    Groups are those of the graph with its residual connections intact. Sizes are numbers of
    indices; ``count`` is the number of independent permutations (heads, for a group inside them).
    """
    return {
        "model": str(structure.model.path),
        "opset": structure.graph.opset,
        "nodes": len(structure.graph.nodes),
        "inputs": list(structure.graph.inputs),
        "outputs": list(structure.graph.outputs),
        "parameters": _parameters(structure),
        "blocks": list(_blocks(structure)),
        "norms": [
            {"kind": m.facts.get("norm", "norm"), "node": str(m.node)} for m in structure.norms
        ],
        "groups": list(groups(structure)),
        "frozen": [*_frozen_spaces(structure), *_frozen_constants(structure)],
        "coverage": round(coverage(structure), 6),
        "near_misses": [
            {"pattern": m.pattern, "node": str(m.node), "reason": m.reason}
            for m in structure.near_misses
        ],
        "operators_without_rule": dict(structure.symmetry.unknown_operators),
    }


def _blocks(structure: Structure) -> Iterable[dict[str, Any]]:
    numbers = {"attention": 0, "mlp": 0}
    for block, tower in zip(structure.blocks, structure.towers, strict=True):
        kind = "attention" if isinstance(block, Attention) else "mlp"
        entry: dict[str, Any] = {
            "name": f"block.{numbers[kind]}.{kind}",
            "kind": kind,
            "tower": tower,
        }
        numbers[kind] += 1
        if isinstance(block, Attention):
            entry |= {**_attention(block), "cross": _is_cross(structure, block)}
        else:
            entry |= _mlp(block)
        entry["residual"] = block.residual is not None
        yield entry


def _attention(layer: Attention) -> dict[str, Any]:
    return {
        "heads": layer.heads,
        "kv_heads": layer.kv_heads,
        "head_dim": int(layer.query.index.shape[1]),
        "value_dim": int(layer.value.index.shape[1]),
        "hidden": layer.output.linear.out_width,
        "packed": _is_packed(layer),
        "node": str(layer.match.node),
    }


def _is_cross(structure: Structure, layer: Attention) -> bool:
    """Tell whether an attention layer reads another stream than the one its queries come from."""
    if not isinstance(layer.value, Projection):
        return True
    ends = {b.residual.node.outputs[0] for b in structure.blocks if b.residual is not None}
    own, read = (
        origins(structure.float_graph, part.linear.input, ends)
        for part in (layer.query, layer.value)
    )
    return own.isdisjoint(read)


def _is_packed(layer: Attention) -> bool:
    key = layer.key
    return isinstance(key, Projection) and (
        layer.query.linear.weight.tensor == key.linear.weight.tensor
    )


def _mlp(block: Mlp) -> dict[str, Any]:
    return {
        "width": block.width,
        "hidden": block.down.out_width,
        "gated": block.gate is not None,
        **({"experts": block.experts} if block.experts > 1 else {}),
        "node": str(block.down.node),
    }


#: Name and kind of a group without a name.
_OTHER = ("", "other")


def group_kind(name: str, kind: str) -> str:
    """Return the kind people are shown; units of layers outside the blocks are ``hidden``."""
    return "hidden" if name.startswith("hidden.") else kind


def groups(structure: Structure) -> Iterable[dict[str, Any]]:
    """Yield the symmetry groups of the graph with name, kind, size, count and members."""
    names = group_names(structure)
    unnamed = 0
    for group in structure.symmetry.groups:
        label, kind = next(
            (names[leaf.root] for leaf in group.leaves if leaf.root in names), _OTHER
        )
        if (label, kind) == _OTHER:
            label = f"group.{unnamed}"
            unnamed += 1
        yield {
            "name": label,
            "kind": kind,
            "size": group.size,
            "count": group.count,
            "members": [{"tensor": m.tensor, "axis": m.axis} for m in group.members],
        }


def group_names(structure: Structure) -> Mapping[Axis, tuple[str, str]]:
    """Return name and kind of every free axis that has a name."""
    spaces = {
        leaf.root: (name, group_kind(name, structure.spaces[name].kind))
        for name, free in structure.leaves.items()
        for leaf in free
    }
    return {**structure.partial, **spaces}


def _frozen_spaces(structure: Structure) -> Iterable[dict[str, Any]]:
    """Yield the parts of a transformer that have no group, by their structural names."""
    symmetry, names = structure.symmetry, group_names(structure)
    for number, layer in enumerate(structure.attention):
        for part, name in (("query", "head_qk"), ("value", "head_vo")):
            inner = layer.canonical(symmetry.values.get(layer.match.parts[part]), part)
            if inner and not _has_name(names, inner[-1]):
                yield _named(f"block.{number}.{name}", inner[-1])
        value = layer.canonical(symmetry.values.get(layer.match.parts["value"]), "value")
        head = value[1] if len(value) > 3 else None
        if layer.kv_heads > 1 and head is not None and not _has_name(names, head):
            yield _named(f"block.{number}.head", head)
    for block in structure.blocks:
        if block.residual is not None:
            axes = symmetry.values.get(block.residual.node.outputs[0])
            channels = axes[block.residual.channels] if axes else None
            if channels is not None and not isinstance(channels.form, Leaf):
                yield _named("residual", channels)
                break
    mlps = (block for block in structure.blocks if not isinstance(block, Attention))
    for number, block in enumerate(mlps):
        axes = symmetry.values.get(block.down.input)
        units = axes[block.down.reads[0]] if axes and len(block.down.reads) == 1 else None
        if units is not None and not _has_name(names, units):
            yield _named(f"block.{number}.mlp", units)


def _has_name(names: Mapping[Axis, tuple[str, str]], axis: Axis) -> bool:
    """Tell whether free axes inside an axis are a group with a name."""
    return any(leaf.root in names for leaf in leaves(axis))


def _named(name: str, axis: Axis | None) -> dict[str, Any]:
    reasons = list(dict.fromkeys(frozen_reasons(axis))) if axis is not None else []
    tied = "one order for all heads"
    if axis is not None and isinstance(axis.form, Fibre):
        tied = "its heads move as a grid only"
    if axis is not None and isinstance(axis.form, Product):
        sizes = " x ".join(str(factor.length) for factor in axis.form.factors)
        reasons.append(f"moves as a grid of {sizes} only")
    if axis is not None and isinstance(axis.form, Sum) and leaves(axis):
        sizes = " + ".join(str(part.length) for part in flat_parts(axis.form))
        reasons.append(f"moves in parts of {sizes} only")
    return {"axis": name, "size": axis.length if axis else 0, "reason": "; ".join(reasons) or tied}


def _frozen_constants(structure: Structure) -> Iterable[dict[str, Any]]:
    for item in structure.symmetry.frozen:
        yield {"axis": f"{item.tensor}[{item.axis}]", "size": item.size, "reason": item.reason}


def _floating(structure: Structure) -> dict[str, int]:
    """Return the sizes of all weights, quantised ones too; their scales do not count."""
    plain, own = structure.float_graph, structure.graph
    scales = {name for name in own.constants if own.users(name) and not plain.users(name)}
    return {
        name: math.prod(ref.shape)
        for name, ref in plain.constants.items()
        if structure.symmetry.holds_numbers(name) and name not in scales
        if math.prod(ref.shape) > 1
    }


def _parameters(structure: Structure) -> int:
    return sum(_floating(structure).values())


def coverage(structure: Structure) -> float:
    """Return the share of parameters that have a role (``other`` does not count)."""
    sizes = _floating(structure)
    total = sum(sizes.values())
    named = {r.view.tensor for r in structure.roles.values() if r.kind != "other"}
    return sum(n for name, n in sizes.items() if name in named) / total if total else 0.0
