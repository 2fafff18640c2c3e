"""Steps that combine values: element by element, or contracted over shared axes."""

from __future__ import annotations

from collections.abc import Sequence

from random_graphs.draft import (
    LIMIT,
    Dim,
    Draft,
    Value,
    broadcast,
    resized,
    size_of,
    static_axis,
    step,
)


@step
def binary(draft: Draft, value: Value) -> object:
    """Combine two values whose shapes broadcast."""
    others = []
    for v in draft.values:
        shape = broadcast(value.shape, v.shape)
        if shape is not None and size_of(shape) <= LIMIT:
            others.append(v)
    if not others:
        return None
    other = draft.pick(others)
    shape = broadcast(value.shape, other.shape)
    assert shape is not None
    return draft.add(draft.pick(("Add", "Mul", "Sub", "Max")), [value.name, other.name], shape)


@step
def outer(draft: Draft, value: Value) -> object:
    """Combine a value with itself along two copies of one axis: x[.., i, 1] + x[.., 1, i]."""
    axis = static_axis(draft, value)
    if axis is None or value.rank > 4 or size_of(value.shape) * int(value.shape[axis]) > LIMIT:
        return None
    left = (*value.shape[: axis + 1], 1, *value.shape[axis + 1 :])
    right = (*value.shape[:axis], 1, *value.shape[axis:])
    operands = [
        draft.add("Unsqueeze", [value.name, draft.ints([at])], shape)
        for at, shape in ((axis + 1, left), (axis, right))
    ]
    shape = resized(left, axis + 1, value.shape[axis])
    names = [v.name for v in operands]
    return draft.add(draft.pick(("Add", "Mul", "Sub")), names, shape)


@step
def with_transpose(draft: Draft, value: Value) -> object:
    """Combine a value with its own transpose, where two axes have equal sizes."""
    pairs = [
        (i, j)
        for i in value.static
        for j in value.static
        if i < j and value.shape[i] == value.shape[j]
    ]
    if not pairs:
        return None
    i, j = draft.pick(pairs)
    order = list(range(value.rank))
    order[i], order[j] = j, i
    turned = draft.transpose(value, order)
    return draft.add(draft.pick(("Add", "Mul")), [value.name, turned.name], value.shape)


@step
def einsum(draft: Draft, value: Value) -> object:
    """Contract some axes of a value with a weight that brings a new one."""
    letters = "abcdefgh"[: value.rank]
    used = [letters[i] for i in value.static if draft.pick((True, True, False))]
    if not used or not value.static:
        return None
    kept = [c for c in letters if c not in used or draft.pick((False, False, True))]
    new = draft.pick((0, 2, 4))
    sizes = dict(zip(letters, value.shape, strict=True))
    terms = list(used)
    if new:
        terms.insert(draft.pick(range(len(terms) + 1)), "z")
        kept.insert(draft.pick(range(1, len(kept) + 1)), "z")
        sizes["z"] = new
    if len(kept) < 2:
        return None
    weight = draft.weight([int(sizes[c]) for c in terms])
    equation = f"{letters},{''.join(terms)}->{''.join(kept)}"
    return draft.add("Einsum", [value.name, weight], [sizes[c] for c in kept], equation=equation)


@step
def einsum_pair(draft: Draft, value: Value) -> object:
    """Contract two values of one rank over random shared axes, the others side by side."""
    other = draft.pick([v for v in draft.values if v.rank <= 4])
    if value.rank > 4:
        return None
    left = "a" + "bcd"[: value.rank - 1]
    sizes: dict[str, Dim] = dict(zip(left, value.shape, strict=True))
    right = "a"
    for letter, n in zip("uvw", other.shape[1:], strict=False):
        same = [c for c in left[1:] if sizes[c] == n and c not in right]
        chosen = draft.pick(same) if same and draft.pick((True, False)) else letter
        sizes[chosen] = n
        right += chosen
    both = list(dict.fromkeys(left + right))
    output = [c for c in both if c == "a" or draft.pick((True, True, False))]
    shape = [sizes[c] for c in output]
    dynamic = [n for n in shape if not isinstance(n, int)]
    if len(output) < 2 or size_of(shape) > LIMIT or len(set(dynamic)) < len(dynamic):
        return None
    equation = f"{left},{right}->{''.join(output)}"
    return draft.add("Einsum", [value.name, other.name], shape, equation=equation)


@step
def gram(draft: Draft, value: Value) -> object:
    """Return x @ x^T over the last axis: two axes with one meaning."""
    if value.rank < 3 or not isinstance(value.shape[-2], int):
        return None
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    turned = draft.transpose(value, order)
    shape = (*value.shape[:-1], value.shape[-2])
    if size_of(shape) > LIMIT:
        return None
    return draft.add("MatMul", [value.name, turned.name], shape)


@step
def matmul_pair(draft: Draft, value: Value) -> object:
    """Multiply two values batch by batch where their shapes allow it."""
    fits = []
    for v in draft.values:
        lead = broadcast(value.shape[:-2], v.shape[:-2])
        square = v.rank > 2 and value.rank > 2 and v.shape[-2] == value.shape[-1]
        if square and lead is not None:
            shape = (*lead, value.shape[-2], v.shape[-1])
            if size_of(shape) <= LIMIT and _distinct(shape):
                fits.append((v, shape))
    if not fits:
        return None
    other, shape = draft.pick(fits)
    return draft.add("MatMul", [value.name, other.name], shape)


def _distinct(shape: Sequence[Dim]) -> bool:
    names = [n for n in shape if isinstance(n, str)]
    return len(set(names)) == len(names)
