"""Do two models, or two sets of outputs, hold the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from graphrebase.errors import MismatchError, UsageError
from graphrebase.graph.quantized import rounds_activations
from graphrebase.io import Model
from graphrebase.runtime.session import Session

#: Largest relative error that rounding alone explains, per float type of the weights.
_TOLERANCES: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-4, "float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
)
_NARROW = 3e-2  # float8, float4
_ROUNDED = 5e-2  # activations in 8 bits: a sum in another order may round to the next integer
_MASKED = 0.25  # share of the largest number from which a value is a mask, not a score
_SMALLEST_SCALE = 1e-6  # an output that is zero throughout has no scale of its own

#: What another basis makes of an input or output of the reference, by name.
Relabels = Mapping[str, Callable[[np.ndarray], np.ndarray]]
_AS_THEY_ARE: Relabels = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far apart two sets of outputs are; all fields are those of the worst output.

    Attributes:
        max_abs_error: largest absolute difference; inf where shapes or non-finite places differ.
        scale: largest finite absolute value of the reference.
        relative: ``max_abs_error / scale``; inf where an exact output (integer, bool) differs.
        worst_output: name of the output with the largest ``relative``.
    """

    max_abs_error: float
    scale: float
    relative: float
    worst_output: str


def compare(reference: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Comparison:
    """Return the worst difference over all outputs, computed in float64.

    NaN and infinities at the same places are equal, elsewhere the error is inf. Integer, bool
    and string outputs are compared exactly.

    Raises:
        MismatchError: the output names differ, or there is no output at all.
    """
    if reference.keys() != other.keys() or not reference:
        raise MismatchError(
            f"the outputs to compare differ: {sorted(reference)} and {sorted(other)}",
            hint="compare models that have the same outputs",
        )
    found = [_compare_output(name, array, other[name]) for name, array in reference.items()]
    return _worst(found)


def equivalent(
    reference: Session,
    other: Session,
    input_sets: Sequence[Mapping[str, np.ndarray]],
    *,
    inputs: Relabels = _AS_THEY_ARE,
    outputs: Relabels = _AS_THEY_ARE,
) -> Comparison:
    """Run both models on every input set and return the worst comparison.

    Args:
        reference: the model that is right by definition.
        other: the model to check.
        input_sets: inputs by name, one mapping per run.
        inputs: what ``other`` is given in place of an input (a cache in another basis).
        outputs: what ``other`` has to give in place of an output.

    Raises:
        UsageError: there is no input set.
        MismatchError: the outputs differ in name, or a function is for none of them.
        InputError: the inputs do not fit a model.
        VerificationError: a model does not run.
    """
    if not input_sets:
        raise UsageError("there are no inputs to compare on")
    known = {*reference.inputs, *reference.outputs}
    unknown = [name for name in (*inputs, *outputs) if name not in known]
    if unknown:
        raise MismatchError(f"'{unknown[0]}' is no input or output of the model")
    found = []
    for arrays in input_sets:
        expected = reference.run(arrays)
        expected |= {name: relabel(expected[name]) for name, relabel in outputs.items()}
        given = {n: inputs[n](array) if n in inputs else array for n, array in arrays.items()}
        found.append(compare(expected, other.run(given)))
    return _worst(found)


def tolerance(dtypes: Iterable[np.dtype[Any]]) -> float:
    """Return the relative error that rounding explains; the least precise float type decides."""
    names = [np.dtype(dtype).name for dtype in dtypes]
    narrow = [_NARROW for name in names if name.startswith(("float8", "float4", "float6"))]
    known = [_TOLERANCES[name] for name in names if name in _TOLERANCES]
    return max([*known, *narrow], default=_TOLERANCES["float32"])


def model_tolerance(model: Model) -> float:
    """Return the tolerance for a model, from the types of its float tensors.

    Scalars do not count: a lone float16 constant says nothing about the weights. Quantised
    activations allow for a few of them rounded the other way.
    """
    found = tolerance(ref.dtype for ref in model.tensors.values() if ref.shape)
    return max(found, _ROUNDED) if rounds_activations(model.proto.graph) else found


def _worst(found: Sequence[Comparison]) -> Comparison:
    return max(found, key=lambda comparison: (comparison.relative, comparison.max_abs_error))


def _compare_output(name: str, reference: np.ndarray, other: np.ndarray) -> Comparison:
    if reference.shape != other.shape:
        return Comparison(np.inf, _scale(reference), np.inf, name)
    if _is_text(reference) or _is_text(other):
        error = 0.0 if np.array_equal(reference, other) else np.inf
        return Comparison(error, 0.0, error, name)
    if _is_exact(reference) and _is_exact(other):
        if np.array_equal(reference, other):
            return Comparison(0.0, _scale(reference), 0.0, name)
        return Comparison(_error(reference, other), _scale(reference), np.inf, name)
    error, scale = _error(reference, other), _scale(reference)
    return Comparison(error, scale, error / max(scale, _SMALLEST_SCALE), name)


def _error(reference: np.ndarray, other: np.ndarray) -> float:
    a, b = reference.astype(np.float64), other.astype(np.float64)
    limit = _MASKED * _largest(reference.dtype)
    finite = (np.abs(a) < limit) & (np.abs(b) < limit)
    if a.size and not finite.any():
        return np.inf  # nothing to compare: equal by vacuity is not equal
    if not np.allclose(a[~finite], b[~finite], rtol=1e-3, atol=0.0, equal_nan=True):
        return np.inf
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))


def _scale(array: np.ndarray) -> float:
    if _is_text(array):
        return 0.0
    values = np.abs(array.astype(np.float64))
    # A masked score is often the lowest number of its type; it says nothing about the scale.
    return float(np.max(values[values < _MASKED * _largest(array.dtype)], initial=0.0))


def _largest(dtype: np.dtype) -> float:
    if dtype.kind in "biu":
        return np.inf
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind in "OSU"


def _is_exact(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu"
