"""Rules of the fused operators of opset 23: Attention and RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Sequence

from graphrebase.symmetry.axes import Axis, fibre, leaf, product
from graphrebase.symmetry.registry import Axes, Context, rule

_ROTARY = "rotary pairs: frequencies keep their place"


def heads_of(context: Context, axes: Sequence[Axis], heads: int | None) -> tuple[Axes, Axis, Axis]:
    """Return (other axes, head axis, inner axis) of a (B, h, S, d) or (B, S, h * d) tensor."""
    if len(axes) == 4:
        return [axes[0], axes[2]], axes[1], axes[3]
    count = heads or 1
    if count == 1:
        head, inner = leaf(1), axes[-1]
    else:
        head, inner = context.solver.split(axes[-1], (count, count))
    return [axes[0], axes[1]], head, inner


@rule("Attention")
def attention(context: Context) -> list[Axes]:
    """Contract q with k and the weights with v, head by head; query heads may share a kv head."""
    attributes, solver = context.node.attributes, context.solver
    query_axes, key_axes, value_axes = (context.axes(i) for i in range(3))
    kv_heads = attributes.get("kv_num_heads")
    outer, query_head, query = heads_of(context, query_axes, attributes.get("q_num_heads"))
    key_outer, key_head, key = heads_of(context, key_axes, kv_heads)
    kv_outer, value_head, value = heads_of(context, value_axes, kv_heads)
    solver.unify(key_head, value_head)
    solver.unify(key_outer[1], kv_outer[1])
    if query_head.size == key_head.size:
        solver.unify(query_head, key_head)
    else:
        members = query_head.length // key_head.length
        inner = fibre(key_head, [leaf(members) for _ in range(key_head.length)])
        solver.unify(query_head, product([key_head, inner]))
    solver.unify(query, key)
    scores = [outer[0], query_head, outer[1], kv_outer[1]]
    context.meet([*scores, query], [None, key_head, None, key_outer[1], key])
    context.meet([*scores, value])
    if attributes.get("is_causal") or context.optional(6) is not None:
        for axis in (outer[1], kv_outer[1]):
            solver.freeze(axis, "later positions are masked")
    mask = context.optional(3)
    if mask is not None:
        context.broadcast([scores, mask])
    for position, present in ((4, [key_head, key]), (5, [value_head, value])):
        past = context.optional(position)
        if past is not None:
            context.broadcast([[past[1], past[3]], present])
    if len(query_axes) == 4:
        result: Axes = [outer[0], query_head, outer[1], value]
    else:
        result = [outer[0], outer[1], product([query_head, value])]
    others = [
        [outer[0], key_head, kv_outer[1], key],
        [kv_outer[0], value_head, kv_outer[1], value],
        scores,
    ]
    return [result, *others][: len(context.node.outputs)]


@rule("RotaryEmbedding")
def rotary_embedding(context: Context) -> list[Axes]:
    """Rotate pairs inside each head: the pairs and their frequencies keep their place."""
    axes = list(context.axes(0))
    heads = context.node.attributes.get("num_heads") or None
    outer, head, inner = heads_of(context, axes, heads)
    for axis in (outer[1], inner):
        context.solver.freeze(axis, _ROTARY)
    for position in (1, 2):
        for axis in context.optional(position) or ():
            context.solver.freeze(axis, _ROTARY)
    return [axes if len(axes) == 4 or heads is None else [*axes[:2], product([head, inner])]]
