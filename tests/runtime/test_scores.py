"""Scores are those of the definition, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from runtime.runtime_models import FLOAT, linear, model

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime import Session, evaluate

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 5)).astype(np.float32)
X = RNG.standard_normal((10, 4)).astype(np.float32)
LABELS = RNG.integers(0, 5, 10)


def _expected(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(likelihood, labels[..., None], axis=-1)
    return float(-np.log(chosen).mean()), float((logits.argmax(-1) == labels).mean())


@pytest.mark.parametrize("batch", ["batch", 4])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch(batch: int | str, batch_size: int) -> None:
    session = Session(linear(WEIGHT, batch=batch))
    found = evaluate(session, {"x": X}, LABELS, batch_size=batch_size)
    loss, accuracy = _expected(X.astype(np.float64) @ WEIGHT, LABELS)
    assert found.cross_entropy == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.samples == 10


def test_other_labels_score_otherwise() -> None:
    best = (X @ WEIGHT).argmax(-1)
    session = Session(linear(WEIGHT))
    assert evaluate(session, {"x": X}, best).accuracy == 1.0
    assert evaluate(session, {"x": X}, (best + 1) % 5).accuracy == 0.0


def _tokens(outputs: tuple[str, ...] = ("logits",)) -> Session:
    nodes = [helper.make_node("MatMul", ["x", "w"], [name]) for name in outputs[-1:]]
    nodes += [helper.make_node("Neg", ["x"], [name]) for name in outputs[:-1]]
    shapes = [(name, FLOAT, ["n", "s", None]) for name in outputs]
    return Session(
        model(nodes, [("x", FLOAT, ["n", "s", 4])], shapes, {"w": WEIGHT}).SerializeToString()
    )


def test_positions_with_ignored_labels() -> None:
    x = X.reshape(2, 5, 4)
    labels = LABELS.reshape(2, 5).copy()
    labels[0, :3] = -100
    kept = labels != -100
    found = evaluate(_tokens(("hidden", "logits")), {"x": x}, labels, batch_size=1)
    loss, accuracy = _expected((x @ WEIGHT)[kept], labels[kept])
    assert found.samples == 7
    assert found.cross_entropy == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx(accuracy)
    whole = evaluate(_tokens(), {"x": x}, LABELS.reshape(2, 5))
    assert whole.cross_entropy != pytest.approx(loss, rel=1e-5)


def test_the_first_output_is_taken_without_logits() -> None:
    assert evaluate(_tokens(("scores",)), {"x": X[None]}, LABELS[None]).samples == 10


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_stored_types_are_widened(dtype: type) -> None:
    stored = np.abs(X * 3).astype(dtype)
    found = evaluate(Session(linear(WEIGHT)), {"x": stored}, LABELS)
    loss, _ = _expected(stored.astype(np.float64) @ WEIGHT, LABELS)
    assert found.cross_entropy == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("inputs", "labels", "fault"),
    [
        ({"x": X}, np.full(10, 5), "label 5 is out of range"),
        ({"x": X}, np.full(10, -1), "label -1 is out of range"),
        ({"x": X}, np.full(10, -100), "nothing to score"),
        ({"x": X[:9]}, LABELS, "'x' has 9"),
        ({"x": X}, LABELS.astype(np.float32), "float32"),
        ({"x": X}, LABELS[:, None], "no logits for labels"),
        ({"x": X[:, :3]}, LABELS, r"needs \('batch', 4\)"),
        ({"x": np.float32(1)}, LABELS, "scalar"),
        ({"z": X}, LABELS, "missing: 'x'"),
    ],
)
def test_data_that_do_not_fit(
    inputs: dict[str, np.ndarray], labels: np.ndarray, fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        evaluate(Session(linear(WEIGHT)), inputs, labels)


def test_numbers_that_are_not_finite_and_empty_batches() -> None:
    with pytest.raises(VerificationError, match="not finite"):
        evaluate(Session(linear(WEIGHT * np.nan)), {"x": X}, LABELS)
    with pytest.raises(UsageError):
        evaluate(Session(linear(WEIGHT)), {"x": X}, LABELS, batch_size=0)
