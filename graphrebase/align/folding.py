"""Folded form: norm gains and biases merged into the linear maps that read them, means removed.

For a norm with gain g and bias beta, W_eff = W diag(g) and b_eff = b + W beta. What a LayerNorm
reads has its mean removed, so readers are W_eff C and writers C W, C = I - 11^T/D. Task vectors
are differences of folded weights; unfolding writes them into B's plain parameters, whose norms
stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.body import Body, FloatArray, Inputs, Linear, Read, Tower
from graphrebase.errors import MismatchError

DEAD_GAIN = 1e-3
"""Share of the median gain below which a column cannot be unfolded and is left alone."""
FILTER_WEIGHT = 2.0
"""Weight of patch filters among the anchors (measured)."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A linear map in folded form, float64; the bias has the output axes of the weight."""

    weight: FloatArray
    bias: FloatArray

    def __sub__(self, other: Folded) -> Folded:
        """Return the difference, such as a task vector."""
        return Folded(self.weight - other.weight, self.bias - other.bias)


def required(read: Read, role: str) -> FloatArray:
    """Return a role's array.

    Raises:
        MismatchError: the model does not have it.
    """
    array = read(role)
    if array is None:
        raise MismatchError(f"a model lacks {role}", hint="compare them with `graphrebase inspect`")
    return array


def fold(linear: Linear, read: Read) -> Folded:
    """Return a linear map of one model in folded form."""
    weight = required(read, linear.weight)
    found = read(linear.bias)
    bias = np.zeros(weight.shape[: linear.outputs]) if found is None else found
    norm = linear.norm
    if norm is not None:
        beta = None if norm.bias is None else read(norm.bias)
        if beta is not None:
            bias = bias + weight @ beta
        weight = weight * _gain(linear, read)
        if norm.centred:
            weight = weight - weight.mean(axis=-1, keepdims=True)
    if linear.scale is not None:
        scale = required(read, linear.scale)
        weight, bias = _rows(scale, weight) * weight, scale * bias
    carried = None if linear.carried is None else read(linear.carried)
    if carried is not None:
        bias = bias + carried
    if linear.centred:
        weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
    return Folded(weight, bias)


def unfold(linear: Linear, change: Folded, read: Read) -> Folded:
    """Return the change of B's plain parameters that makes a change of its folded ones.

    Args:
        linear: the map.
        change: the folded change.
        read: B.
    """
    weight, bias = change.weight, change.bias
    if linear.scale is not None:
        scale = required(read, linear.scale)
        inverse = np.where(dead(scale), 0.0, 1.0 / np.where(scale == 0.0, 1.0, scale))
        weight, bias = _rows(inverse, weight) * weight, inverse * bias
    if linear.norm is not None:
        gain = _gain(linear, read)
        inverse = np.where(dead(gain), 0.0, 1.0 / np.where(gain == 0.0, 1.0, gain))
        weight = weight * inverse
        beta = None if linear.norm.bias is None else read(linear.norm.bias)
        if beta is not None:
            bias = bias - weight @ beta
    return Folded(weight, bias)


def dead(gain: FloatArray) -> NDArray[np.bool_]:
    """Return where a gain is too small to divide by."""
    return np.abs(gain) < DEAD_GAIN * float(np.median(np.abs(gain)))


def _gain(linear: Linear, read: Read) -> FloatArray:
    norm = linear.norm
    if norm is None or norm.gain is None:
        return np.ones(1)
    return required(read, norm.gain)


def _rows(vector: FloatArray, weight: FloatArray) -> FloatArray:
    return vector.reshape(-1, *(1,) * (weight.ndim - 1))


def fold_body(body: Body, read: Read) -> dict[str, Folded]:
    """Return every linear map of a body in folded form, by stem."""
    return {stem: fold(linear, read) for stem, linear in body.linears.items()}


def fold_heads(body: Body, read: Read) -> dict[str, Folded]:
    """Return the heads of a body in folded form, by stem."""
    return {head.stem: fold(head, read) for tower in body.towers for head in tower.heads}


def input_anchors(inputs: Inputs, read: Read, *, centred: bool) -> FloatArray:
    """Return the input-side anchor rows of a model, (rows, D), of Frobenius norm one.

    Tokens put first belong to the first positions, the bias of patches to the others.
    """
    rows = [FILTER_WEIGHT * required(read, role).T for role in inputs.filters]
    biases = [b for b in map(read, inputs.biases) if b is not None]
    tokens = [required(read, role) for role in inputs.tokens]
    for role in inputs.tables:
        table = required(read, role)
        table = table.copy() if tokens or biases else table
        for index, token in enumerate(tokens[: len(table)] if inputs.filters else ()):
            table[index] += token
        if biases:
            table[len(tokens) :] += sum(biases, np.zeros(table.shape[1]))
        rows.append(table)
    return _unit(_stacked(rows), centred) if rows else np.zeros((0, 0))


def output_anchors(tower: Tower, folded: dict[str, Folded]) -> FloatArray:
    """Return the output-side anchor rows: heads' rows minus their mean row, Frobenius norm one."""
    rows = [folded[head.stem].weight for head in tower.heads if head.axes[0] is None]
    rows = [r - r.mean(axis=0) for r in rows]
    return _unit(_stacked(rows), tower.centred) if rows else np.zeros((0, 0))


def _stacked(rows: list[FloatArray]) -> FloatArray:
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _unit(rows: FloatArray, centred: bool) -> FloatArray:
    rows = rows - rows.mean(axis=1, keepdims=True) if centred else rows.copy()
    norm = float(np.linalg.norm(rows))
    if norm > 0:
        rows /= norm  # in place: a vocabulary's table is large
    return rows
