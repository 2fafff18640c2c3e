"""Equal outputs compare equal, everything else is noticed."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime.runtime_models import linear

from graphrebase.errors import MismatchError, UsageError
from graphrebase.io import read_model
from graphrebase.runtime import Session, compare, equivalent, model_tolerance, tolerance

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 6)).astype(np.float32)
INPUTS = [{"x": RNG.standard_normal((n, 4)).astype(np.float32)} for n in (1, 3)]


def _error(a: object, b: object) -> float:
    return compare({"y": np.asarray(a)}, {"y": np.asarray(b)}).relative


@given(st.lists(st.floats(width=32), max_size=8))
def test_an_array_equals_itself(values: list[float]) -> None:
    array = np.array([1.0, *values], np.float32)
    assert _error(array, array) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.4e38])
def test_nothing_but_masked_values_is_no_proof(value: float) -> None:
    array = np.full(3, value, np.float32)
    assert _error(array, array) == np.inf


def test_a_masked_score_does_not_set_the_scale() -> None:
    lowest = np.finfo(np.float32).min
    reference = np.array([lowest, 1.0], np.float32)
    found = compare({"logits": reference}, {"logits": np.array([lowest, 10.0], np.float32)})
    assert found.relative == pytest.approx(9.0)


def test_relative_error_is_that_of_the_worst_output() -> None:
    a = {"large": np.array([100.0, -200.0]), "small": np.array([0.1])}
    b = {"large": np.array([101.0, -200.0]), "small": np.array([0.2])}
    found = compare(a, b)
    assert found.worst_output == "small"
    assert found.relative == pytest.approx(1.0)
    assert found.max_abs_error == pytest.approx(0.1)
    assert found.scale == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [1.0, np.nan], np.inf),
        ([1.0, 1.0], [np.nan, 1.0], np.inf),
        ([-np.inf, 1.0], [-np.inf, 1.0], 0.0),
        ([-np.inf, 1.0], [np.inf, 1.0], np.inf),
        ([np.nan, 1.0], [np.inf, 1.0], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([10**6, 1], [10**6, 2], np.inf),
        ([True], [True], 0.0),
        ([True], [False], np.inf),
        (["a"], ["a"], 0.0),
        (["a"], ["b"], np.inf),
    ],
)
def test_places_that_cannot_be_subtracted(a: object, b: object, expected: float) -> None:
    assert _error(a, b) == expected


def test_bfloat16_is_not_compared_exactly() -> None:
    a = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert 0 < _error(a, a * ml_dtypes.bfloat16(1.01)) < 0.1


def test_outputs_of_other_names_do_not_compare() -> None:
    with pytest.raises(MismatchError):
        compare({"a": np.ones(1)}, {"b": np.ones(1)})
    with pytest.raises(MismatchError):
        compare({}, {})


def test_a_permuted_output_needs_its_map() -> None:
    index = np.array([3, 0, 1, 2, 5, 4])
    reference, other = Session(linear(WEIGHT)), Session(linear(WEIGHT[:, index]))
    maps = {"logits": lambda array: array[:, index]}
    assert equivalent(reference, other, INPUTS, outputs=maps).relative < 1e-6
    assert equivalent(reference, other, INPUTS).relative > 0.1
    inverse = {"logits": lambda array: array[:, np.argsort(index)]}
    assert equivalent(reference, other, INPUTS, outputs=inverse).relative > 0.1


def test_a_permuted_input_is_given_permuted() -> None:
    index = np.array([2, 0, 3, 1])
    reference, other = Session(linear(WEIGHT)), Session(linear(WEIGHT[index]))
    maps = {"x": lambda array: array[:, index]}
    assert equivalent(reference, other, INPUTS, inputs=maps).relative < 1e-6
    assert equivalent(reference, other, INPUTS).relative > 0.1


def test_one_bad_set_is_enough() -> None:
    reference, other = Session(linear(WEIGHT)), Session(linear(WEIGHT * 1.5))
    zero = {"x": np.zeros((1, 4), np.float32)}
    assert equivalent(reference, other, [zero]).relative == 0
    assert equivalent(reference, other, [zero, INPUTS[0], zero]).relative == pytest.approx(0.5)


def test_nothing_to_compare_is_no_success() -> None:
    session = Session(linear(WEIGHT))
    with pytest.raises(UsageError):
        equivalent(session, session, [])
    with pytest.raises(MismatchError, match="no input or output"):
        equivalent(session, session, INPUTS, outputs={"hidden": np.negative})


def test_the_least_precise_type_decides() -> None:
    float32, float16 = np.dtype(np.float32), np.dtype(np.float16)
    assert tolerance([]) == tolerance([float32, np.dtype(np.int64)]) == 1e-4
    assert tolerance([float32, float16]) == 4e-3
    assert tolerance([float16, np.dtype(ml_dtypes.bfloat16)]) == 3e-2


def test_a_lone_scalar_does_not_decide(tmp_path: Path) -> None:
    proto = onnx.load_from_string(linear(WEIGHT))
    scalar = onnx.numpy_helper.from_array(np.float16(1), "scalar")
    proto.graph.initializer.append(scalar)
    onnx.save(proto, tmp_path / "m.onnx")
    assert model_tolerance(read_model(tmp_path / "m.onnx")) == 1e-4
    vector = onnx.numpy_helper.from_array(np.ones(3, np.float16), "vector")
    proto.graph.initializer.append(vector)
    onnx.save(proto, tmp_path / "m.onnx")
    assert model_tolerance(read_model(tmp_path / "m.onnx")) == 4e-3
