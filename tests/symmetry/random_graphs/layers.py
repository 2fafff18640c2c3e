"""Steps of the layers that models are made of: linear maps, norms, activations, blocks."""

from __future__ import annotations

from random_graphs.draft import SIZES, Draft, Value, resized, static_axis, step


@step
def linear(draft: Draft, value: Value) -> object:
    if isinstance(value.shape[-1], int):
        return draft.linear(value, draft.pick(SIZES), bias=draft.pick((True, False)))
    return None


@step
def gemm(draft: Draft, value: Value) -> object:
    if value.rank != 2 or not isinstance(value.shape[-1], int):
        return None
    width, turned = draft.pick(SIZES), draft.pick((0, 1))
    shape = (width, value.shape[-1]) if turned else (value.shape[-1], width)
    inputs = [value.name, draft.weight(shape)]
    if draft.pick((True, False)):
        inputs.append(draft.weight((width,)))
    return draft.add("Gemm", inputs, (value.shape[0], width), transB=turned)


@step
def affine(draft: Draft, value: Value) -> object:
    """Add or multiply a constant over some trailing axes, ones in between."""
    first = draft.pick(range(value.rank))
    shape = [
        n if isinstance(n, int) and draft.pick((True, True, False)) else 1
        for n in value.shape[first:]
    ]
    inputs = [value.name, draft.weight(shape)]
    if draft.pick((True, False)):
        inputs.reverse()
    return draft.add(draft.pick(("Add", "Mul", "Sub", "Max")), inputs, value.shape)


@step
def made_weight(draft: Draft, value: Value) -> object:
    """Multiply by a weight that the graph cuts, turns or scales first."""
    last = value.shape[-1]
    if not isinstance(last, int) or last < 2:
        return None
    width = draft.pick(SIZES)
    kind = draft.pick(("turned", "half", "scaled", "sum", "grid"))
    if kind == "turned":
        made = draft.add("Transpose", [draft.weight((width, last))], (last, width), perm=[1, 0])
    elif kind == "half":
        inputs = [draft.ints([n]) for n in (0, last, 0)]
        made = draft.add("Slice", [draft.weight((2 * last, width)), *inputs], (last, width))
    elif kind == "scaled":
        made = draft.add(
            "Mul", [draft.weight((last, width)), draft.weight((width,))], (last, width)
        )
    elif kind == "sum":
        names = [draft.weight((last, width)), draft.weight((last, width))]
        made = draft.add("Add", names, (last, width))
    else:
        grid = draft.ints([last, width])
        made = draft.add("Reshape", [draft.weight((last * width,)), grid], (last, width))
    draft.values.remove(made)
    return draft.add("MatMul", [value.name, made.name], (*value.shape[:-1], width))


@step
def softmax(draft: Draft, value: Value) -> object:
    axis = draft.pick(range(1, value.rank))
    return draft.add(draft.pick(("Softmax", "LogSoftmax")), [value.name], value.shape, axis=axis)


@step
def layer_norm(draft: Draft, value: Value) -> object:
    first = draft.pick(range(1, value.rank))
    if len(value.static) == 0 or any(not isinstance(n, int) for n in value.shape[first:]):
        return None
    shape = [int(n) for n in value.shape[first:]]
    inputs = [value.name, draft.weight(shape)]
    if draft.pick((True, False)):
        inputs.append(draft.weight(shape))
    return draft.add("LayerNormalization", inputs, value.shape, axis=first)


@step
def unary(draft: Draft, value: Value) -> object:
    return draft.add(draft.pick(("Relu", "Tanh", "Sigmoid")), [value.name], value.shape)


@step
def reduce(draft: Draft, value: Value) -> object:
    axes = sorted({draft.pick(range(1, value.rank)) for _ in range(draft.pick((1, 1, 2)))})
    keep = draft.pick((0, 1))
    shape = [1 if i in axes else n for i, n in enumerate(value.shape) if keep or i not in axes]
    if len(shape) < 2:
        return None
    op = draft.pick(("ReduceMean", "ReduceSum", "ReduceMax"))
    return draft.add(op, [value.name, draft.ints(axes)], shape, keepdims=keep)


@step
def centre(draft: Draft, value: Value) -> object:
    """Subtract the mean over an axis."""
    axis = draft.pick(range(1, value.rank))
    mean = draft.add(
        "ReduceMean", [value.name, draft.ints([axis])], resized(value.shape, axis, 1), keepdims=1
    )
    return draft.add("Sub", [value.name, mean.name], value.shape)


@step
def ordered(draft: Draft, value: Value) -> object:
    """An operator to which the order of indices matters, or one without a rule."""
    axis = static_axis(draft, value)
    if axis is None:
        return None
    op = draft.pick(("CumSum", "TopK", "Pad", "Trilu", "LpNormalization"))
    if op == "CumSum":
        return draft.add(op, [value.name, draft.ints(axis)], value.shape)
    if op == "LpNormalization":
        return draft.add(op, [value.name], value.shape, axis=axis)
    if op == "TopK":
        shape = resized(value.shape, axis, 1)
        node = draft.add(op, [value.name, draft.ints([1])], shape, axis=axis)
        draft.nodes[-1].output.append(draft.fresh("unused"))
        return node
    if op == "Pad":
        pads = [1 if i == axis else 0 for i in range(value.rank)] + [0] * value.rank
        shape = resized(value.shape, axis, int(value.shape[axis]) + 1)
        return draft.add(op, [value.name, draft.ints(pads)], shape)
    return draft.add("Trilu", [value.name], value.shape) if value.rank > 2 else None


@step
def attention(draft: Draft, value: Value) -> object:
    """Multi-head attention with the variants that exporters write, and some that none does."""
    if value.rank != 3 or not isinstance(value.shape[-1], int):
        return None
    heads, inner = draft.pick((2, 4)), 2
    group = draft.pick((1, 1, 2)) if heads == 4 else 1
    width, kv = heads * inner, heads // group
    q = draft.linear(value, width, bias=draft.pick((True, False)))
    if draft.pick((True, False)) and group == 1:
        packed = draft.linear(value, 2 * width, bias=draft.pick((True, False)))
        shapes = [resized(packed.shape, 2, width)] * 2
        k, v = draft.add_many("Split", [packed.name], shapes, axis=2, num_outputs=2)
    else:
        k = draft.linear(value, kv * inner, bias=draft.pick((True, False)))
        v = draft.pick((k, None)) or draft.linear(value, kv * inner, bias=True)
    q4, k4, v4 = (_heads(draft, x, h) for x, h in ((q, heads), (k, kv), (v, kv)))
    if group > 1:
        k4, v4 = (_grown(draft, x, group) for x in (k4, v4))
    turned = draft.transpose(k4, [0, 1, 3, 2])
    scores_shape = (*q4.shape[:-1], turned.shape[-1])
    scores = draft.add("MatMul", [q4.name, turned.name], scores_shape)
    if draft.pick((True, False, False)):
        mixing = draft.weight((heads, heads))
        scores = draft.add("Einsum", [scores.name, mixing], scores.shape, equation="ahij,hg->agij")
    axis = draft.pick((-1, -1, 1))
    weights = draft.add("Softmax", [scores.name], scores.shape, axis=axis)
    mixed = draft.add("MatMul", [weights.name, v4.name], q4.shape)
    back = draft.transpose(mixed, [0, 2, 1, 3])
    flat = draft.reshape(back, (*back.shape[:2], width))
    assert flat is not None
    out = draft.linear(flat, int(value.shape[-1]), bias=draft.pick((True, False)))
    return draft.add("Add", [value.name, out.name], value.shape)


def _heads(draft: Draft, value: Value, heads: int) -> Value:
    shape = (*value.shape[:2], heads, int(value.shape[2]) // heads)
    split_value = draft.reshape(value, shape)
    assert split_value is not None
    return draft.transpose(split_value, [0, 2, 1, 3])


def _grown(draft: Draft, value: Value, group: int) -> Value:
    batch, kv, length, inner = value.shape
    opened = draft.add("Unsqueeze", [value.name, draft.ints([2])], (batch, kv, 1, length, inner))
    shape = (batch, kv, group, length, inner)
    grown = draft.add("Expand", [opened.name, draft.ints([1, 1, group, 1, 1])], shape)
    result = draft.reshape(grown, (batch, int(kv) * group, length, inner))
    assert result is not None
    return result


@step
def mlp(draft: Draft, value: Value) -> object:
    if not isinstance(value.shape[-1], int):
        return None
    up = draft.linear(value, 8, bias=True)
    act = draft.add("Relu", [up.name], up.shape)
    down = draft.linear(act, int(value.shape[-1]), bias=True)
    return draft.add("Add", [down.name, value.name], value.shape)
