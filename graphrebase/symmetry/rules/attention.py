"""Rules of the fused operators of opset 23: Attention and RotaryEmbedding on (B, h, S, d).

Packed heads, and what other domains call attention, are brought to this form by ``graph.bodies``.
"""

from __future__ import annotations

from graphrebase.symmetry.axes import Axis, fibre, frozen, leaf, product
from graphrebase.symmetry.registry import Axes, CannotFollow, Context, rule

_ROTARY = "rotary pairs: frequencies keep their place"
_CAUSAL = "later positions are masked"
_CACHED = "joined to the tokens before"


@rule("Attention")
def attention(context: Context) -> list[Axes]:
    """Contract q with k and the weights with v, head by head; query heads may share a kv head."""
    batch, query_head, rows, query = _heads(context, 0)
    key_batch, key_head, columns, key = _heads(context, 1)
    value_batch, value_head, value_columns, value = _heads(context, 2)
    solver = context.solver
    for left, right in (
        *((key_head, value_head), (columns, value_columns), (query, key)),
        *((batch, key_batch), (batch, value_batch)),
    ):
        solver.unify(left, right)
    if query_head.length % key_head.length:
        raise CannotFollow("query heads that do not share key-value heads evenly")
    if query_head.size == key_head.size:
        solver.unify(query_head, key_head)
    else:
        members = query_head.length // key_head.length
        inner = fibre(key_head, [leaf(members) for _ in range(key_head.length)])
        solver.unify(query_head, product([key_head, inner]))
    cached = any(context.optional(position) is not None for position in (4, 5))
    if cached:
        columns = _with_past(context, [[batch, key_head, key], [batch, value_head, value]], columns)
    scores = [batch, query_head, rows, columns]
    context.meet([*scores, query], [None, key_head, None, None, key])
    own = None if cached else value_columns
    context.meet([*scores, value], [None, value_head, None, own, value])
    if context.node.attributes.get("is_causal") or context.optional(6) is not None:
        for axis in (rows, columns):
            solver.freeze(axis, _CAUSAL)
    mask = context.optional(3)
    if mask is not None:
        context.broadcast([scores, mask])
    results = [
        [batch, query_head, rows, value],
        [batch, key_head, columns, key],
        [batch, value_head, columns, value],
        scores,
    ]
    return results[: len(context.node.outputs)]


def _heads(context: Context, position: int) -> Axes:
    axes = context.axes(position)
    if len(axes) != 4:
        raise CannotFollow("Attention whose heads are packed")
    return axes


def _with_past(context: Context, present: list[Axes], columns: Axis) -> Axis:
    """Tie the cache to keys and values; returns the axis of all tokens, whose order stays."""
    context.solver.freeze(columns, _CACHED)
    length = columns.size
    for position, (batch, head, inner) in zip((4, 5), present, strict=True):
        past = context.axes(position)
        context.solver.freeze(past[2], _CACHED)
        for left, right in zip((past[0], past[1], past[3]), (batch, head, inner), strict=True):
            context.solver.unify(left, right)
        context.meet(past, [batch, head, None, inner])
        length = (past[2].size[0] + columns.size[0], past[2].size[1] + columns.size[1])
    return frozen(length, _CACHED)


@rule("RotaryEmbedding")
def rotary_embedding(context: Context) -> list[Axes]:
    """Rotate pairs inside each head: the pairs and their frequencies keep their place."""
    axes = context.axes(0)
    if len(axes) != 4:
        raise CannotFollow("RotaryEmbedding of packed heads")
    inner, width = axes[3], context.node.attributes.get("rotary_embedding_dim") or axes[3].length
    sizes = [(n, n) for n in (width, inner.length - width) if n]
    rotated = context.solver.parts(inner, sizes)[0]
    for axis in (axes[2], rotated):
        context.solver.freeze(axis, _ROTARY)
    for position in (1, 2, 3):
        for axis in context.optional(position) or ():
            context.solver.freeze(axis, _ROTARY)
    return [list(axes)]


@rule("TensorScatter")
def tensor_scatter(context: Context) -> list[Axes]:
    """Write new tokens into a cache of fixed length; their places count, all else corresponds."""
    cache, update = context.axes(0), context.axes(1)
    along = context.node.attributes.get("axis", -2) % len(cache)
    for position, (stored, new) in enumerate(zip(cache, update, strict=True)):
        if position != along:
            context.solver.unify(stored, new)
            continue
        for axis in (stored, new):
            context.solver.freeze(axis, _CACHED)
    indices = context.optional(2)
    if indices:
        context.solver.unify(cache[0], indices[0])
    context.meet(cache, [None if i == along else axis for i, axis in enumerate(update)])
    return [list(cache)]
