"""Fold the small integer arithmetic that exporters leave in the graph to compute shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

Array = np.ndarray
Evaluator = Callable[[Sequence[Array | None], dict[str, Any]], Sequence[Array]]

#: Values longer than this are data, not shapes.
MAX_FOLDED = 4096


def _axes(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> tuple[int, ...] | None:
    if "axes" in attributes:
        return tuple(attributes["axes"])
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(a) for a in inputs[1])
    return None


def _need(array: Array | None) -> Array:
    if array is None:
        raise ValueError("a required input is absent")
    return array


def _slice(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    data = _need(inputs[0])
    if "starts" in attributes:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        starts, ends = _need(inputs[1]), _need(inputs[2])
        axes = inputs[3] if len(inputs) > 3 else None
        steps = inputs[4] if len(inputs) > 4 else None
    chosen = list(range(len(starts))) if axes is None else [int(a) for a in axes]
    strides = [1] * len(starts) if steps is None else [int(s) for s in steps]
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(chosen, starts, ends, strides, strict=True):
        stop = None if step < 0 and end < -data.shape[axis] else int(end)
        index[axis] = slice(int(start), stop, step)
    return [data[tuple(index)]]


def _unsqueeze(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    data, axes = _need(inputs[0]), _axes(inputs, attributes) or ()
    rank = data.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        data = np.expand_dims(data, axis)
    return [data]


def _squeeze(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    return [np.squeeze(_need(inputs[0]), _axes(inputs, attributes))]


def _reduce(function: Callable[..., Array]) -> Evaluator:
    def evaluate(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
        keep = bool(attributes.get("keepdims", 1))
        return [
            np.asarray(function(_need(inputs[0]), axis=_axes(inputs, attributes), keepdims=keep))
        ]

    return evaluate


def _cast(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    return [_need(inputs[0]).astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))]


def _divide(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    left, right = _need(inputs[0]), _need(inputs[1])
    if np.issubdtype(left.dtype, np.integer):
        return [(np.sign(left) * np.sign(right) * (abs(left) // abs(right))).astype(left.dtype)]
    return [left / right]


def _split(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    data, axis = _need(inputs[0]), attributes.get("axis", 0)
    sizes = attributes.get("split", inputs[1] if len(inputs) > 1 else None)
    if sizes is None:
        return list(np.array_split(data, attributes["_outputs"], axis))
    return list(np.split(data, np.cumsum(sizes)[:-1], axis))


def _filled(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32)))
    return [np.full(tuple(int(n) for n in _need(inputs[0])), value.reshape(-1)[0], value.dtype)]


def _reshape(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    data, target = _need(inputs[0]), [int(n) for n in _need(inputs[1])]
    if not attributes.get("allowzero"):
        target = [data.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return [data.reshape(target)]


def _concat(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    return [np.concatenate([_need(x) for x in inputs], attributes["axis"])]


def _gather_nd(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    if attributes.get("batch_dims", 0):
        raise ValueError("a batch of look-ups is not folded")
    return [_need(inputs[0])[tuple(np.moveaxis(_need(inputs[1]), -1, 0))]]


def _one_hot(inputs: Sequence[Array | None], attributes: dict[str, Any]) -> list[Array]:
    indices, depth, pair = (_need(x) for x in inputs)
    count = int(depth.reshape(-1)[0])
    axis = attributes.get("axis", -1) % (indices.ndim + 1)
    wrapped = np.where(indices < 0, indices + count, indices)
    form = [count if i == axis else 1 for i in range(indices.ndim + 1)]
    chosen = np.expand_dims(wrapped, axis) == np.arange(count).reshape(form)
    return [np.where(chosen, pair[1], pair[0]).astype(pair.dtype)]


def _elementwise(function: Callable[..., Array]) -> Evaluator:
    return lambda inputs, attributes: [np.asarray(function(*[_need(x) for x in inputs]))]


#: Operators that shape arithmetic is made of. Anything else is not folded.
EVALUATORS: dict[str, Evaluator] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": _elementwise(np.equal),
    "Expand": lambda x, a: [
        np.broadcast_to(_need(x[0]), np.broadcast_shapes(_need(x[0]).shape, tuple(_need(x[1]))))
    ],
    "Floor": _elementwise(np.floor),
    "Gather": lambda x, a: [np.take(_need(x[0]), _need(x[1]), axis=a.get("axis", 0))],
    "GatherND": _gather_nd,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": lambda x, a: [_need(x[0])],
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Max": _elementwise(lambda *xs: np.maximum.reduce(xs)),
    "Min": _elementwise(lambda *xs: np.minimum.reduce(xs)),
    "Mod": _elementwise(np.mod),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "OneHot": _one_hot,
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(np.power),
    "Range": _elementwise(np.arange),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tile": lambda x, a: [np.tile(_need(x[0]), _need(x[1]))],
    "Transpose": lambda x, a: [np.transpose(_need(x[0]), a.get("perm"))],
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}


def evaluate(
    op_type: str, inputs: Sequence[Array | None], attributes: dict[str, Any], outputs: int
) -> Sequence[Array] | None:
    """Return the operator's outputs computed by numpy, or None where it cannot be folded."""
    function = EVALUATORS.get(op_type)
    if function is None or any(x is not None and x.size > MAX_FOLDED for x in inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            results = function(inputs, {**attributes, "_outputs": outputs})
    except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError):
        return None
    return None if any(r.size > MAX_FOLDED for r in results) else results
