"""Body of Einsum, where it is a matrix product: axes brought together, MatMul, axes put back.

Attention written with Einsum then looks like any other: q and k^T, the weights and v, and linear
maps whose weight has the head axes spelt out, (D, h, d) or (h, d, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphrebase.graph.bodies.table import Call, KeepAsIs, body


@dataclass(frozen=True, slots=True)
class _Letters:
    """The axes of a contraction of two operands, each in one of four parts."""

    batch: str
    rows: str
    summed: str
    columns: str


@body("Einsum", domain="")
def einsum(call: Call) -> None:
    """Write a contraction of two operands as MatMul; other equations keep their rule."""
    terms, _, output = str(call.attribute("equation", "")).replace(" ", "").partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or "." in terms or not output:
        raise KeepAsIs
    (left, right), values = operands, [call.input(0), call.input(1)]
    if values[0] in call.constants:
        left, right, values = right, left, values[::-1]
    letters = _letters(left, right, output)
    if values[1] in call.constants and not letters.batch:
        _linear(call, values, left, right, letters, output)
    elif all(len(part) == 1 for part in (letters.rows, letters.summed, letters.columns)):
        if output.index(letters.rows) > output.index(letters.columns):  # Keras: keys, queries
            left, right, values = right, left, values[::-1]
            letters = _letters(left, right, output)
        _product(call, values, left, right, letters, output)
    else:
        raise KeepAsIs


def _letters(left: str, right: str, output: str) -> _Letters:
    both = set(left) & set(right)
    letters = _Letters(
        batch="".join(c for c in output if c in both),
        rows="".join(c for c in output if c not in right),
        summed="".join(c for c in left if c in both and c not in output),
        columns="".join(c for c in output if c not in left),
    )
    whole = (letters.batch + letters.rows + letters.summed, letters.batch + letters.summed)
    plain = all(len(set(term)) == len(term) for term in (left, right, output))
    fits = set(left) == set(whole[0]) and set(right) == {*whole[1], *letters.columns}
    if not plain or not fits or not (letters.rows and letters.summed and letters.columns):
        raise KeepAsIs
    return letters


def _linear(
    call: Call, values: Sequence[str], left: str, right: str, letters: _Letters, output: str
) -> None:
    """Multiply by a constant: its axes are brought together to a matrix."""
    sizes = dict(zip(right, call.shape(values[1]), strict=True))
    x = _turned(call, values[0], left, letters.rows + letters.summed)
    weight = _turned(call, values[1], right, letters.summed + letters.columns)
    if len(letters.summed) > 1:
        x = call.reshape(x, *[0] * len(letters.rows), -1)
    if len(right) > 2:
        inner, outer = (_size(sizes, part) for part in (letters.summed, letters.columns))
        weight = call.reshape(weight, inner, outer)
    order = letters.rows + letters.columns
    if len(letters.columns) == 1:
        _given(call, "MatMul", [x, weight], order, output)
        return
    found = call.emit("MatMul", x, weight)
    shape = call.ints(*[0] * len(letters.rows), *(sizes[c] for c in letters.columns))
    _given(call, "Reshape", [found, shape], order, output)


def _product(
    call: Call, values: Sequence[str], left: str, right: str, letters: _Letters, output: str
) -> None:
    x = _turned(call, values[0], left, letters.batch + letters.rows + letters.summed)
    y = _turned(call, values[1], right, letters.batch + letters.summed + letters.columns)
    order = letters.batch + letters.rows + letters.columns
    _given(call, "MatMul", [x, y], order, output)


def _given(call: Call, op_type: str, inputs: Sequence[str], order: str, output: str) -> None:
    """Emit the last operator, and put its axes in the order of the output."""
    if order == output:
        call.emit(op_type, *inputs, out=call.output(0))
        return
    found = call.emit(op_type, *inputs)
    call.emit("Transpose", found, perm=[order.index(c) for c in output], out=call.output(0))


def _turned(call: Call, value: str, order: str, wanted: str) -> str:
    if order == wanted:
        return value
    return call.emit("Transpose", value, perm=[order.index(c) for c in wanted])


def _size(sizes: dict[str, int], letters: str) -> int:
    total = 1
    for letter in letters:
        total *= sizes[letter]
    return total
