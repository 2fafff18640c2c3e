"""Random small graphs that run in onnxruntime, drawn choice by choice.

A choice is made by any ``Pick`` (hypothesis in the tests, so that failures shrink). Weights are
float64, which leaves a wrong permutation nowhere to hide: a right one changes outputs by 1e-15 of
their scale. Sizes are few and repeat, so that axes of equal size meet where they should not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
Dim = int | str

#: Most elements of one value per batch entry.
LIMIT = 400
SIZES = (2, 4, 6, 8)


class Pick(Protocol):
    """Chooses one of several options."""

    def __call__(self, options: Sequence[T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Value:
    """A float64 tensor of the graph; strings are dynamic sizes."""

    name: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> list[int]:
        """Return the positions of the static axes longer than one."""
        return [i for i, n in enumerate(self.shape) if isinstance(n, int) and n > 1]


@dataclass(slots=True)
class Draft:
    """A graph under construction."""

    pick: Pick
    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    integers: dict[str, np.ndarray] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, shape: Sequence[int], *, share: bool = True) -> str:
        """Return a weight of a shape: a new one or, now and then, one that exists."""
        same = [n for n, w in self.weights.items() if w.shape == tuple(shape)]
        if share and same and self.pick((False, False, True)):
            return self.pick(same)
        name = self.fresh("w")
        scale = 1 / math.sqrt(max(shape[0], 1)) if len(shape) > 1 else 1.0
        self.weights[name] = self.rng.normal(size=tuple(shape)) * scale
        return name

    def ints(self, values: Sequence[int] | int) -> str:
        name = self.fresh("i")
        self.integers[name] = np.array(values, np.int64)
        return name

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[Dim], **attributes: Any) -> Value:
        """Append an operator with one output of the given shape."""
        return self.add_many(op, inputs, [shape], **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[str], shapes: Sequence[Sequence[Dim]], **attributes: Any
    ) -> list[Value]:
        values = [Value(self.fresh("v"), tuple(shape)) for shape in shapes]
        outputs = [v.name for v in values]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        self.values.extend(values)
        return values

    # --- helpers that several steps need

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value | None:
        """Return a reshaped value, None where the dynamic sizes cannot be expressed."""
        target: list[int] = []
        for i, n in enumerate(shape):
            if isinstance(n, int):
                target.append(n)
            else:
                target.append(0 if i < value.rank and value.shape[i] == n else -1)
        if target.count(-1) > 1:
            return None
        return self.add("Reshape", [value.name, self.ints(target)], shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        shape = [value.shape[i] for i in order]
        return self.add("Transpose", [value.name], shape, perm=list(order))

    def linear(self, value: Value, width: int, *, bias: bool) -> Value:
        """Return value @ W (+ b) over the last axis."""
        last = value.shape[-1]
        assert isinstance(last, int)
        shape = (*value.shape[:-1], width)
        result = self.add("MatMul", [value.name, self.weight((last, width))], shape)
        return self.biased(result) if bias else result

    def biased(self, value: Value) -> Value:
        last = value.shape[-1]
        assert isinstance(last, int)
        operands = [value.name, self.weight((last,))]
        return self.add(
            "Add", operands if self.pick((True, False)) else operands[::-1], value.shape
        )


Step = Callable[[Draft, Value], object]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    """Register a step: it adds nodes after a value, or does nothing where it does not fit."""
    STEPS[function.__name__] = function
    return function


def _size(shape: Sequence[Dim]) -> int:
    return math.prod(n for n in shape if isinstance(n, int))


def _static_axis(draft: Draft, value: Value) -> int | None:
    return draft.pick(value.static) if value.static else None


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
def split_heads(draft: Draft, value: Value) -> object:
    axis = _static_axis(draft, value)
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
    axis = _static_axis(draft, value)
    if axis is None:
        return None
    size, cuts = int(value.shape[axis]), draft.pick((1, 1, 2))
    bounds = sorted({draft.pick(range(1, size)) for _ in range(cuts)})
    if draft.pick((True, False)) and size % 2 == 0:
        bounds = [size // 2]
    sizes = [b - a for a, b in zip([0, *bounds], [*bounds, size], strict=True)]
    shapes = [_with(value.shape, axis, n) for n in sizes]
    return draft.add_many("Split", [value.name, draft.ints(sizes)], shapes, axis=axis)


def _with(shape: Sequence[Dim], axis: int, size: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


@step
def slice_axis(draft: Draft, value: Value) -> object:
    axis = _static_axis(draft, value)
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
    return draft.add("Slice", [value.name, *inputs], _with(value.shape, axis, count))


@step
def concat(draft: Draft, value: Value) -> object:
    axis = _static_axis(draft, value)
    if axis is None:
        return None
    others = [
        v
        for v in draft.values
        if v.rank == value.rank
        and isinstance(v.shape[axis], int)
        and _with(v.shape, axis, 0) == _with(value.shape, axis, 0)
    ]
    parts = [value, draft.pick(others)]
    if draft.pick((True, False)):
        parts.reverse()
    size = sum(int(p.shape[axis]) for p in parts)
    shape = _with(value.shape, axis, size)
    if _size(shape) > LIMIT:
        return None
    return draft.add("Concat", [p.name for p in parts], shape, axis=axis)


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


def _broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...] | None:
    rank = max(len(a), len(b))
    result: list[Dim] = []
    for x, y in zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True):
        if x != y and 1 not in (x, y):
            return None
        result.append(y if x == 1 else x)
    return tuple(result)


@step
def binary(draft: Draft, value: Value) -> object:
    """Combine two values whose shapes broadcast."""
    others = []
    for v in draft.values:
        shape = _broadcast(value.shape, v.shape)
        if shape is not None and _size(shape) <= LIMIT:
            others.append(v)
    if not others:
        return None
    other = draft.pick(others)
    shape = _broadcast(value.shape, other.shape)
    assert shape is not None
    return draft.add(draft.pick(("Add", "Mul", "Sub", "Max")), [value.name, other.name], shape)


@step
def outer(draft: Draft, value: Value) -> object:
    """Combine a value with itself along two copies of one axis: x[.., i, 1] + x[.., 1, i]."""
    axis = _static_axis(draft, value)
    if axis is None or value.rank > 4 or _size(value.shape) * int(value.shape[axis]) > LIMIT:
        return None
    left = (*value.shape[: axis + 1], 1, *value.shape[axis + 1 :])
    right = (*value.shape[:axis], 1, *value.shape[axis:])
    operands = [
        draft.add("Unsqueeze", [value.name, draft.ints([at])], shape)
        for at, shape in ((axis + 1, left), (axis, right))
    ]
    shape = _with(left, axis + 1, value.shape[axis])
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
        "ReduceMean", [value.name, draft.ints([axis])], _with(value.shape, axis, 1), keepdims=1
    )
    return draft.add("Sub", [value.name, mean.name], value.shape)


@step
def gather(draft: Draft, value: Value) -> object:
    axis = _static_axis(draft, value)
    if axis is None:
        return None
    size = int(value.shape[axis])
    kind = draft.pick(("scalar", "one", "some"))
    if kind == "scalar" and value.rank > 2:
        index: Any = draft.pick(range(-size, size))
        shape: tuple[Dim, ...] = (*value.shape[:axis], *value.shape[axis + 1 :])
    elif kind == "some":
        index = [draft.pick(range(size)) for _ in range(2)]
        shape = _with(value.shape, axis, 2)
    else:
        index = [draft.pick(range(size))]
        shape = _with(value.shape, axis, 1)
    return draft.add("Gather", [value.name, draft.ints(index)], shape, axis=axis)


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
    if len(output) < 2 or _size(shape) > LIMIT or len(set(dynamic)) < len(dynamic):
        return None
    equation = f"{left},{right}->{''.join(output)}"
    return draft.add("Einsum", [value.name, other.name], shape, equation=equation)


@step
def expand(draft: Draft, value: Value) -> object:
    """Repeat a value along a new axis, then perhaps merge that axis into a neighbour."""
    if value.rank > 4:
        return None
    axis, times = draft.pick(range(1, value.rank + 1)), draft.pick((2, 4))
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    if _size(shape) * times > LIMIT:
        return None
    opened = draft.add("Unsqueeze", [value.name, draft.ints([axis])], shape)
    target = [times if i == axis else 1 for i in range(len(shape))]
    return draft.add("Expand", [opened.name, draft.ints(target)], _with(shape, axis, times))


@step
def repeat_heads(draft: Draft, value: Value) -> object:
    """Repeat every index of an axis, as grouped-query attention does with its kv heads."""
    axis = _static_axis(draft, value)
    if axis is None or value.rank > 4 or _size(value.shape) * 2 > LIMIT:
        return None
    shape = (*value.shape[: axis + 1], 1, *value.shape[axis + 1 :])
    opened = draft.add("Unsqueeze", [value.name, draft.ints([axis + 1])], shape)
    target = [2 if i == axis + 1 else 1 for i in range(len(shape))]
    grown = draft.add("Expand", [opened.name, draft.ints(target)], _with(shape, axis + 1, 2))
    return draft.reshape(grown, _with(value.shape, axis, int(value.shape[axis]) * 2))


@step
def tile(draft: Draft, value: Value) -> object:
    axis = _static_axis(draft, value)
    if axis is None or _size(value.shape) * 2 > LIMIT:
        return None
    times = [2 if i == axis else 1 for i in range(value.rank)]
    shape = _with(value.shape, axis, int(value.shape[axis]) * 2)
    return draft.add("Tile", [value.name, draft.ints(times)], shape)


@step
def ordered(draft: Draft, value: Value) -> object:
    """An operator to which the order of indices matters, or one without a rule."""
    axis = _static_axis(draft, value)
    if axis is None:
        return None
    op = draft.pick(("CumSum", "TopK", "Pad", "Trilu", "LpNormalization"))
    if op == "CumSum":
        return draft.add(op, [value.name, draft.ints(axis)], value.shape)
    if op == "LpNormalization":
        return draft.add(op, [value.name], value.shape, axis=axis)
    if op == "TopK":
        shape = _with(value.shape, axis, 1)
        node = draft.add(op, [value.name, draft.ints([1])], shape, axis=axis)
        draft.nodes[-1].output.append(draft.fresh("unused"))
        return node
    if op == "Pad":
        pads = [1 if i == axis else 0 for i in range(value.rank)] + [0] * value.rank
        shape = _with(value.shape, axis, int(value.shape[axis]) + 1)
        return draft.add(op, [value.name, draft.ints(pads)], shape)
    return draft.add("Trilu", [value.name], value.shape) if value.rank > 2 else None


@step
def gram(draft: Draft, value: Value) -> object:
    """Return x @ x^T over the last axis: two axes with one meaning."""
    if value.rank < 3 or not isinstance(value.shape[-2], int):
        return None
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    turned = draft.transpose(value, order)
    shape = (*value.shape[:-1], value.shape[-2])
    if _size(shape) > LIMIT:
        return None
    return draft.add("MatMul", [value.name, turned.name], shape)


@step
def matmul_pair(draft: Draft, value: Value) -> object:
    """Multiply two values batch by batch where their shapes allow it."""
    fits = []
    for v in draft.values:
        lead = _broadcast(value.shape[:-2], v.shape[:-2])
        square = v.rank > 2 and value.rank > 2 and v.shape[-2] == value.shape[-1]
        if square and lead is not None:
            shape = (*lead, value.shape[-2], v.shape[-1])
            if _size(shape) <= LIMIT and _distinct(shape):
                fits.append((v, shape))
    if not fits:
        return None
    other, shape = draft.pick(fits)
    return draft.add("MatMul", [value.name, other.name], shape)


def _distinct(shape: Sequence[Dim]) -> bool:
    names = [n for n in shape if isinstance(n, str)]
    return len(set(names)) == len(names)


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
        shapes = [_with(packed.shape, 2, width)] * 2
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


def finish(draft: Draft, value: Value) -> Value:
    """Return a graph output made of a value, most often with its static axes contracted."""
    kind = draft.pick(("contract", "contract", "last", "flat", "mean", "direct"))
    if not value.static or kind == "direct":
        return value
    if kind == "last" and value.rank - 1 in value.static:
        return draft.linear(value, 3, bias=True)
    if kind == "flat" and value.static == list(range(value.rank - len(value.static), value.rank)):
        size = _size(value.shape)
        flat = draft.reshape(value, (*value.shape[: value.static[0]], size))
        if flat is not None:
            return draft.linear(flat, 3, bias=False)
    if kind == "mean":
        axes = draft.ints([draft.pick(value.static)])
        shape = [n for i, n in enumerate(value.shape) if [i] != draft.integers[axes].tolist()]
        return draft.add("ReduceMean", [value.name, axes], shape, keepdims=0)
    letters = "abcdefgh"[: value.rank]
    used = "".join(letters[i] for i in value.static)
    rest = "".join(c for c in letters if c not in used)
    weight = draft.weight([int(value.shape[i]) for i in value.static] + [3], share=False)
    shape = [n for i, n in enumerate(value.shape) if i not in value.static] + [3]
    equation = f"{letters},{used}z->{rest}z"
    return draft.add("Einsum", [value.name, weight], shape, equation=equation)


def draw_graph(pick: Pick, *, steps: int = 8) -> onnx.ModelProto:
    """Return a random model of about ``steps`` operators (or small blocks of them)."""
    draft = Draft(pick)
    middle = pick(((), ("T",), (4,)))
    source = Value("x", ("B", *middle, 5))
    draft.values.append(source)
    current = draft.linear(source, pick((4, 8)), bias=True)
    names = tuple(STEPS)
    for _ in range(pick(range(2, steps + 1))):
        chosen = current if pick((True, True, False)) else pick(draft.values)
        STEPS[pick(names)](draft, chosen)
        current = draft.values[-1]
    used = {name for node in draft.nodes for name in node.input}
    ends = [v for v in draft.values if v.name not in used and v is not source] or [current]
    outputs = {finish(draft, v).name: None for v in ends[-3:]}
    return _model(draft, source, list(outputs))


def _model(draft: Draft, source: Value, outputs: Sequence[str]) -> onnx.ModelProto:
    stored = {**draft.weights, **draft.integers}
    graph = helper.make_graph(
        draft.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, list(source.shape))],
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in stored.items()],
    )
    opsets = [helper.make_opsetid("", draft.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
