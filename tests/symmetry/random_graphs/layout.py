"""Steps that move, cut, repeat or regroup entries and compute nothing."""

from __future__ import annotations

from typing import Any

from random_graphs.draft import LIMIT, Dim, Draft, Value, resized, size_of, static_axis, step


@step
def split_heads(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None or value.rank > 4:
        return None
    size = value.shape[axis]
    outer = [n for n in range(2, int(size)) if int(size) % n == 0]
    if not outer:
        return None
    head = draft.pick(outer)
    shape = (*value.shape[:axis], head, int(size) // head, *value.shape[axis + 1 :])
    result = draft.reshape(value, shape)
    if result is not None and draft.pick((True, False)):
        draft.transpose(result, _shuffled(draft, result.rank))
    return result


@step
def merge_axes(draft: Draft, value: Value) -> object:
    pairs = [i for i in value.static if i + 1 in value.static]
    if not pairs:
        return None
    i = draft.pick(pairs)
    size = int(value.shape[i]) * int(value.shape[i + 1])
    return draft.reshape(value, (*value.shape[:i], size, *value.shape[i + 2 :]))


@step
def regroup(draft: Draft, value: Value) -> object:
    """Reshape two static neighbours into another grid of the same size."""
    pairs = [i for i in value.static if i + 1 in value.static]
    if not pairs:
        return None
    i = draft.pick(pairs)
    size = int(value.shape[i]) * int(value.shape[i + 1])
    head = draft.pick([n for n in range(2, size) if size % n == 0])
    return draft.reshape(value, (*value.shape[:i], head, size // head, *value.shape[i + 2 :]))


def _shuffled(draft: Draft, rank: int) -> list[int]:
    rest, order = list(range(1, rank)), [0]
    while rest:
        order.append(rest.pop(draft.pick(range(len(rest)))))
    return order


@step
def transpose(draft: Draft, value: Value) -> object:
    if value.rank < 3:
        return None
    return draft.transpose(value, _shuffled(draft, value.rank))


@step
def split(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None:
        return None
    size, cuts = int(value.shape[axis]), draft.pick((1, 1, 2))
    bounds = sorted({draft.pick(range(1, size)) for _ in range(cuts)})
    if draft.pick((True, False)) and size % 2 == 0:
        bounds = [size // 2]
    sizes = [b - a for a, b in zip([0, *bounds], [*bounds, size], strict=True)]
    shapes = [resized(value.shape, axis, n) for n in sizes]
    return draft.add_many("Split", [value.name, draft.ints(sizes)], shapes, axis=axis)


@step
def slice_axis(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None:
        return None
    size = int(value.shape[axis])
    stride = draft.pick((1, 1, 1, 2, -1))
    start = draft.pick(range(size))
    stop = draft.pick(range(start + 1, size + 1))
    if stride == 2:
        start, stop = start % 2, size
    if stride == -1:
        start, stop = size - 1, -size - 1
    count = len(range(size)[start : None if stride == -1 else stop : stride])
    inputs = [draft.ints([n]) for n in (start, stop, axis, stride)]
    return draft.add("Slice", [value.name, *inputs], resized(value.shape, axis, count))


@step
def concat(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None:
        return None
    others = [
        v
        for v in draft.values
        if v.rank == value.rank
        and isinstance(v.shape[axis], int)
        and resized(v.shape, axis, 0) == resized(value.shape, axis, 0)
    ]
    parts = [value, draft.pick(others)]
    if draft.pick((True, False)):
        parts.reverse()
    size = sum(int(p.shape[axis]) for p in parts)
    shape = resized(value.shape, axis, size)
    if size_of(shape) > LIMIT:
        return None
    return draft.add("Concat", [p.name for p in parts], shape, axis=axis)


@step
def gather(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None:
        return None
    size = int(value.shape[axis])
    kind = draft.pick(("scalar", "one", "some"))
    if kind == "scalar" and value.rank > 2:
        index: Any = draft.pick(range(-size, size))
        shape: tuple[Dim, ...] = (*value.shape[:axis], *value.shape[axis + 1 :])
    elif kind == "some":
        index = [draft.pick(range(size)) for _ in range(2)]
        shape = resized(value.shape, axis, 2)
    else:
        index = [draft.pick(range(size))]
        shape = resized(value.shape, axis, 1)
    return draft.add("Gather", [value.name, draft.ints(index)], shape, axis=axis)


@step
def expand(draft: Draft, value: Value) -> object:
    """Repeat a value along a new axis, then perhaps merge that axis into a neighbour."""
    if value.rank > 4:
        return None
    axis, times = draft.pick(range(1, value.rank + 1)), draft.pick((2, 4))
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    if size_of(shape) * times > LIMIT:
        return None
    opened = draft.add("Unsqueeze", [value.name, draft.ints([axis])], shape)
    target = [times if i == axis else 1 for i in range(len(shape))]
    return draft.add("Expand", [opened.name, draft.ints(target)], resized(shape, axis, times))


@step
def repeat_heads(draft: Draft, value: Value) -> object:
    """Repeat every index of an axis, as grouped-query attention does with its kv heads."""
    axis = static_axis(draft, value)
    if axis is None or value.rank > 4 or size_of(value.shape) * 2 > LIMIT:
        return None
    shape = (*value.shape[: axis + 1], 1, *value.shape[axis + 1 :])
    opened = draft.add("Unsqueeze", [value.name, draft.ints([axis + 1])], shape)
    target = [2 if i == axis + 1 else 1 for i in range(len(shape))]
    grown = draft.add("Expand", [opened.name, draft.ints(target)], resized(shape, axis + 1, 2))
    return draft.reshape(grown, resized(value.shape, axis, int(value.shape[axis]) * 2))


@step
def tile(draft: Draft, value: Value) -> object:
    axis = static_axis(draft, value)
    if axis is None or size_of(value.shape) * 2 > LIMIT:
        return None
    times = [2 if i == axis else 1 for i in range(value.rank)]
    shape = resized(value.shape, axis, int(value.shape[axis]) * 2)
    return draft.add("Tile", [value.name, draft.ints(times)], shape)
