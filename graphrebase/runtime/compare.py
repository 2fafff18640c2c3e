"""How far apart two models' outputs are, relative to the outputs' scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphrebase.runtime.session import Array

TOLERANCES: Final[dict[np.dtype[Any], float]] = {
    np.dtype(np.float64): 1e-7,
    np.dtype(np.float32): 1e-4,
    np.dtype(np.float16): 5e-3,  # reordered sums of fp16 exports differ by up to 7e-4 of the scale
    np.dtype(ml_dtypes.bfloat16): 4e-2,  # eight times the rounding of float16
}
"""Largest error allowed, as a share of the output's scale, by floating-point type."""

_HUGE = 0.5  # share of the type's largest number from which a value is a mask, not a result


def tolerance(dtype: np.dtype[Any] | type) -> float:
    """Return the error allowed as a share of the output's scale; 0.0 for types without rounding."""
    return TOLERANCES.get(np.dtype(dtype), 0.0)


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output of two models.

    Attributes:
        name: of the output.
        max_abs_error: largest difference; infinite where the two cannot be compared.
        scale: largest absolute value of the reference, masked (infinite) values left out.
        tolerance: error allowed, as a share of ``scale``.
        varies: the reference is not one constant, so that equality says something.
        problem: why the two cannot be compared, if so.
    """

    name: str
    max_abs_error: float
    scale: float
    tolerance: float
    varies: bool
    problem: str | None = None

    @property
    def relative_error(self) -> float:
        """The error as a share of the scale."""
        if self.max_abs_error == 0.0:
            return 0.0
        return self.max_abs_error / self.scale if self.scale > 0.0 else float("inf")

    @property
    def ok(self) -> bool:
        """Whether the two agree."""
        return self.problem is None and self.relative_error <= self.tolerance

    def __str__(self) -> str:
        """Return the finding in one line."""
        found = self.problem or (
            f"largest error {self.max_abs_error:.3g} at scale {self.scale:.3g} "
            f"(relative {self.relative_error:.2g}, allowed {self.tolerance:.2g})"
        )
        return f"output {self.name!r}: {found}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All outputs of two models on one input.

    Attributes:
        outputs: one finding per output.
    """

    outputs: tuple[OutputComparison, ...]

    @property
    def max_abs_error(self) -> float:
        """Largest difference over all outputs."""
        return max((item.max_abs_error for item in self.outputs), default=0.0)

    @property
    def scale(self) -> float:
        """Largest scale over all outputs."""
        return max((item.scale for item in self.outputs), default=0.0)

    @property
    def max_relative_error(self) -> float:
        """Largest error as a share of its own output's scale."""
        return max((item.relative_error for item in self.outputs), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether every output agrees, and there is one."""
        return bool(self.outputs) and all(item.ok for item in self.outputs)

    @property
    def vacuous(self) -> bool:
        """Whether every output is a constant, so that agreement proves nothing."""
        return not any(item.varies for item in self.outputs)


def compare_outputs(
    a: Mapping[str, Array], b: Mapping[str, Array], *, dtype: np.dtype[Any] | type | None = None
) -> Comparison:
    """Compare outputs ``b`` with the reference ``a``.

    Infinite values, and those beyond half of what their type can hold (masked logits), must stand
    in the same places with the same sign and count neither as error nor for the scale. NaN never
    agrees with anything. Integers and booleans must be equal.

    Args:
        a: reference outputs by name.
        b: the other model's outputs.
        dtype: type the models compute in, where it is coarser than that of the outputs.
    """
    names = [*a, *(name for name in b if name not in a)]
    floor = 0.0 if dtype is None else tolerance(dtype)
    return Comparison(tuple(_compare(name, a.get(name), b.get(name), floor) for name in names))


def _compare(name: str, a: Array | None, b: Array | None, floor: float) -> OutputComparison:
    if a is None or b is None:
        return _failed(name, f"only the {'first' if b is None else 'second'} model has it")
    if a.shape != b.shape:
        return _failed(name, f"shapes differ, {list(a.shape)} against {list(b.shape)}")
    if (a.dtype in TOLERANCES) != (b.dtype in TOLERANCES):
        return _failed(name, f"types differ, {a.dtype} against {b.dtype}")
    if a.dtype not in TOLERANCES:
        return _compare_exact(name, a, b)
    allowed = max(tolerance(a.dtype), tolerance(b.dtype), floor)
    return _compare_float(name, _masked(a), _masked(b), allowed)


def _compare_exact(name: str, a: Array, b: Array) -> OutputComparison:
    different = int(np.count_nonzero(a != b))
    varies = a.size == 1 or (a.size > 1 and bool((a != a.flat[0]).any()))
    if a.dtype.kind not in "iub":
        return OutputComparison(
            name, 0.0, 0.0, 0.0, varies, f"{different} values differ" if different else None
        )
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    error = float(np.abs(wide_a - wide_b).max(initial=0.0)) if different else 0.0
    scale = float(np.abs(wide_a).max(initial=0.0))
    problem = f"{different} of {a.size} values differ" if different else None
    return OutputComparison(name, error, scale, 0.0, varies, problem)


def _compare_float(
    name: str, a: NDArray[np.float64], b: NDArray[np.float64], allowed: float
) -> OutputComparison:
    for which, values in (("first", a), ("second", b)):
        bad = int(np.isnan(values).sum())
        if bad:
            return _failed(name, f"the {which} model gives NaN in {bad} of {values.size} places")
    finite = np.isfinite(a)
    if a.size and not finite.any():
        return _failed(name, "the first model gives no finite value")
    if not np.array_equal(a[~finite], b[~finite]) or not np.isfinite(b[finite]).all():
        return _failed(name, "masked or infinite values stand in different places")
    x, y = a[finite], b[finite]
    error, scale = float(np.abs(x - y).max(initial=0.0)), float(np.abs(x).max(initial=0.0))
    varies = x.size == 1 or bool(np.ptp(x) > allowed * scale if x.size else False)
    return OutputComparison(name, error, scale, allowed, varies)


def _masked(values: Array) -> NDArray[np.float64]:
    """Return float64 values in which those near the type's limits are infinite."""
    limit = _HUGE * float(ml_dtypes.finfo(values.dtype).max)
    wide = values.astype(np.float64)
    beyond = np.abs(wide) > limit
    return np.where(beyond, np.copysign(np.inf, wide), wide)


def _failed(name: str, problem: str) -> OutputComparison:
    return OutputComparison(name, float("inf"), 0.0, 0.0, True, problem)
