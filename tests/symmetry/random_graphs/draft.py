"""A random graph under construction, and the table of steps that add to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from onnx import helper

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


def size_of(shape: Sequence[Dim]) -> int:
    return math.prod(n for n in shape if isinstance(n, int))


def static_axis(draft: Draft, value: Value) -> int | None:
    return draft.pick(value.static) if value.static else None


def resized(shape: Sequence[Dim], axis: int, size: Dim) -> tuple[Dim, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...] | None:
    rank = max(len(a), len(b))
    result: list[Dim] = []
    for x, y in zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True):
        if x != y and 1 not in (x, y):
            return None
        result.append(y if x == 1 else x)
    return tuple(result)
