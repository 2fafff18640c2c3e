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
    width = axes[-1].length
    count = heads or 1
    solver = context.solver
    sizes = [(count, count), (width // count, width // count)]
    if count == 1:
        head, inner = leaf(1), axes[-1]
    else:
        outer, inner = solver.refine(_merged(context, axes[-1]), sizes)[:2]
        head = outer
    return [axes[0], axes[1]], head, inner


def _merged(context: Context, axis: Axis) -> list[Axis]:
    factors = context.solver.factors(axis)
    return factors if len(factors) <= 2 else [factors[0], product(factors[1:])]


@rule("Attention")
def attention(context: Context) -> list[Axes]:
    """Contract q with k and the weights with v, head by head; query heads may share a kv head."""
    attributes, solver = context.node.attributes, context.solver
    query_axes, key_axes, value_axes = (context.axes(i) for i in range(3))
    kv_heads = attributes.get("kv_num_heads")
    outer, query_head, query = heads_of(context, query_axes, attributes.get("q_num_heads"))
    _, key_head, key = heads_of(context, key_axes, kv_heads)
    kv_outer, value_head, value = heads_of(context, value_axes, kv_heads)
    solver.unify(key_head, value_head)
    if query_head.size == key_head.size:
        solver.unify(query_head, key_head)
    else:
        members = query_head.length // key_head.length
        inner = fibre(key_head, [leaf(members) for _ in range(key_head.length)])
        solver.unify(query_head, product([key_head, inner]))
    solver.unify(query, key)
    scores = [outer[0], query_head, outer[1], kv_outer[1]]
    mask = context.optional(3)
    if mask is not None:
        context.broadcast([scores, mask])
    for position, name in ((4, key_axes), (5, value_axes)):
        past = context.optional(position)
        if past is not None:
            context.broadcast([[past[1], past[3]], [name[1], name[-1]]])
    if len(query_axes) == 4:
        result: Axes = [outer[0], query_head, outer[1], value]
    else:
        result = [outer[0], outer[1], product([query_head, value])]
    present = [
        [outer[0], key_head, kv_outer[1], key],
        [kv_outer[0], value_head, kv_outer[1], value],
        scores,
    ]
    return [result, *present][: len(context.node.outputs)]


@rule("RotaryEmbedding")
def rotary_embedding(context: Context) -> list[Axes]:
    """Rotate pairs inside each head: the pairs and their frequencies keep their place."""
    axes = list(context.axes(0))
    heads = context.node.attributes.get("num_heads") or None
    _, head, inner = heads_of(context, axes, heads)
    context.solver.freeze(inner, _ROTARY)
    for position in (1, 2):
        for axis in context.optional(position) or ():
            context.solver.freeze(axis, _ROTARY)
    return [axes if len(axes) == 4 or heads is None else [*axes[:2], product([head, inner])]]
