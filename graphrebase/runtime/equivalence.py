"""Whether two models compute the same, up to known permutations of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.errors import MismatchError, UsageError, VerificationError
from graphrebase.runtime.compare import Comparison, OutputComparison, compare_outputs
from graphrebase.runtime.session import Array, Session

AxisMap = tuple[int, NDArray[np.int64]]
"""An axis and the index by which B orders it: x_B = take(x_A, index, axis)."""
Runnable = Session | Path | str | bytes


@dataclass(frozen=True, slots=True)
class Equivalence:
    """What comparing two models on several inputs found.

    Attributes:
        comparisons: one per input set.
    """

    comparisons: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """Whether the models agree on every input."""
        return all(item.ok for item in self.comparisons)

    @property
    def vacuous(self) -> bool:
        """Whether the outputs are constants on every input, so that agreement proves nothing."""
        return all(item.vacuous for item in self.comparisons)

    @property
    def max_abs_error(self) -> float:
        """Largest difference over all inputs and outputs."""
        return max(item.max_abs_error for item in self.comparisons)

    @property
    def scale(self) -> float:
        """Largest scale over all inputs and outputs."""
        return max(item.scale for item in self.comparisons)

    @property
    def max_relative_error(self) -> float:
        """Largest error as a share of its own output's scale."""
        return max(item.max_relative_error for item in self.comparisons)

    @property
    def failures(self) -> tuple[OutputComparison, ...]:
        """The outputs that disagree."""
        return tuple(item for one in self.comparisons for item in one.outputs if not item.ok)

    def require(self) -> None:
        """Raise a VerificationError that names the outputs that disagree, if any does."""
        if not self.ok:
            lines = dict.fromkeys(str(item) for item in self.failures)
            raise VerificationError(
                f"the models do not compute the same: {'; '.join(lines) or 'no outputs'}",
                hint="give real inputs with --inputs FILE.npz if synthetic ones are unfit",
            )


def equivalent(
    model_a: Runnable,
    model_b: Runnable,
    input_sets: Sequence[Mapping[str, Array]],
    *,
    output_maps: Mapping[str, AxisMap | Sequence[AxisMap]] | None = None,
    input_maps: Mapping[str, AxisMap | Sequence[AxisMap]] | None = None,
    dtype: np.dtype[Any] | type | None = None,
    threads: int = 0,
) -> Equivalence:
    """Run both models on the same inputs and compare.

    The models are loaded one after the other, so only one is in memory at a time.

    Args:
        model_a: the reference.
        model_b: the other model.
        input_sets: inputs of A; two of different sizes where sizes are dynamic.
        output_maps: per output of B, the axes that B orders differently.
        input_maps: per input of B, the same (a key-value cache in another basis).
        dtype: type the models compute in, where it is coarser than that of the outputs.
        threads: of each session.

    Raises:
        UsageError: there are no inputs, or a map's index does not fit its axis.
        InputError: a model or an input is refused.
        MismatchError: the models have different inputs or outputs, or a map names neither.
        VerificationError: onnxruntime fails while computing.
    """
    if not input_sets:
        raise UsageError("there are no inputs to compare the models on")
    outputs, inputs = output_maps or {}, input_maps or {}
    session = _session(model_a, threads)
    names = _interface(session)
    _check_maps(outputs, names[1], "output")
    _check_maps(inputs, names[0], "input")
    expected = [_mapped(session.run(feed), outputs) for feed in input_sets]
    del session
    session = _session(model_b, threads)
    _check_interface(names, _interface(session))
    found = [session.run(_mapped(feed, inputs)) for feed in input_sets]
    pairs = zip(expected, found, strict=True)
    return Equivalence(tuple(compare_outputs(a, b, dtype=dtype) for a, b in pairs))


_Interface = tuple[frozenset[str], frozenset[str]]


def _session(model: Runnable, threads: int) -> Session:
    return model if isinstance(model, Session) else Session(model, threads=threads)


def _interface(session: Session) -> _Interface:
    names = frozenset(spec.name for spec in session.input_signature)
    return names, frozenset(session.output_names)


def _check_interface(a: _Interface, b: _Interface) -> None:
    for what, first, second in zip(("inputs", "outputs"), a, b, strict=True):
        if first != second:
            raise MismatchError(
                f"the models have different {what}: {', '.join(sorted(first)) or 'none'} against "
                f"{', '.join(sorted(second)) or 'none'}",
                hint="compare models of one interface",
            )


def _check_maps(maps: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    for name in maps:
        if name not in known:
            raise MismatchError(f"a map names {name!r}, which is no {what} of the model")


def _mapped(
    values: Mapping[str, Array], maps: Mapping[str, AxisMap | Sequence[AxisMap]]
) -> dict[str, Array]:
    """Return the values with each axis that has a map in B's order."""
    result = dict(values)
    for name, given in maps.items():
        if name not in result:
            continue
        for axis, index in _axis_maps(given):
            result[name] = _take(name, result[name], axis, index)
    return result


def _axis_maps(given: AxisMap | Sequence[AxisMap]) -> list[AxisMap]:
    if len(given) == 2 and isinstance(given[0], int):
        return [given]  # type: ignore[list-item]  # one (axis, index) pair
    return list(given)  # type: ignore[arg-type]


def _take(name: str, value: Array, axis: int, index: NDArray[np.int64]) -> Array:
    if not -value.ndim <= axis < value.ndim or value.shape[axis] != len(index):
        raise UsageError(
            f"a map of {len(index)} indices on axis {axis} does not fit {name!r}, "
            f"which has the shape {list(value.shape)}"
        )
    return np.take(value, index, axis=axis)
