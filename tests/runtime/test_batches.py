"""Models that take only so many samples at a time are run in that, declared or found by trial."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from runtime.runtime_models import FLOAT, linear, model

from graphrebase.errors import VerificationError
from graphrebase.runtime import Session
from graphrebase.runtime.batches import batch_of, outputs, predict, whole_batches

WEIGHT = np.arange(6.0).reshape(3, 2)
X = {"x": np.arange(21, dtype=np.float32).reshape(7, 3)}


def baked(size: int) -> Session:
    """Return ``logits = x @ w`` that declares any batch and takes one of ``size`` only."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["all"]),
        helper.make_node("MatMul", ["all", "w"], ["logits"]),
    ]
    weights = {"w": WEIGHT.astype(np.float32), "shape": np.array([size, 3])}
    ends = ("x", FLOAT, ["batch", 3]), ("logits", FLOAT, ["batch", 2])
    return Session(model(nodes, [ends[0]], [ends[1]], weights).SerializeToString())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_batch_that_is_baked_in_is_found_by_trial(size: int) -> None:
    assert batch_of(baked(size), X) == size
    session = baked(size)
    np.testing.assert_array_equal(predict(session, X, 0, 7, 5), X["x"] @ WEIGHT)
    assert session.batch == size
    found = outputs(baked(size), X, ["logits"])["logits"]
    np.testing.assert_array_equal(found, X["x"] @ WEIGHT)


@pytest.mark.parametrize(("batch", "fixed"), [("batch", None), (1, 1), (3, 3)])
def test_control_declared_and_free_batches(batch: int | str, fixed: int | None) -> None:
    session = Session(linear(WEIGHT, batch=batch))
    assert batch_of(session, X) == fixed
    np.testing.assert_array_equal(predict(session, X, 2, 7, 5), X["x"][2:] @ WEIGHT)
    assert session.batch is None


def test_the_failure_told_is_that_of_the_batch_that_was_wanted() -> None:
    with pytest.raises(VerificationError, match=r"x \(3, 3\)"):
        batch_of(baked(5), X)


def test_whole_batches_repeat_the_last_sample_only() -> None:
    parts = [part["x"][:, 0].tolist() for part in whole_batches(X, 3)]
    assert parts == [[0, 3, 6], [9, 12, 15], [18, 18, 18]]
