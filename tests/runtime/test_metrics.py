"""Metrics are those of scikit-learn, however the samples are batched."""

from __future__ import annotations

import numpy as np
import pytest
from runtime.runtime_models import linear
from sklearn import metrics as reference

from graphrebase.errors import InputError
from graphrebase.runtime import METRICS, Session, evaluate

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 9)).astype(np.float32)
X = RNG.standard_normal((50, 4)).astype(np.float32)
LABELS = RNG.integers(0, 7, 50)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_class_metrics(batch_size: int) -> None:
    found = evaluate(Session(linear(WEIGHT)), {"x": X}, LABELS, batch_size=batch_size)
    scores = X @ WEIGHT
    chosen = scores.argmax(-1)
    assert found.kind == "classes"
    assert set(found.values) == {n for n, m in METRICS.items() if "classes" in m.kinds}
    assert found.values["f1-macro"] == pytest.approx(
        reference.f1_score(LABELS, chosen, average="macro")
    )
    top = reference.top_k_accuracy_score(LABELS, scores, k=5, labels=np.arange(9))
    assert found.values["top-5"] == pytest.approx(top)
    assert found.values["perplexity"] == pytest.approx(np.exp(found.cross_entropy))
    assert found.values["top-5"] > found.accuracy


@pytest.mark.parametrize("width", [1, 3])
def test_number_metrics(width: int) -> None:
    labels = RNG.standard_normal((50, width)).astype(np.float32)
    session = Session(linear(WEIGHT[:, :width], output="score"))
    found = evaluate(session, {"x": X}, labels, batch_size=16)
    wanted = X @ WEIGHT[:, :width]
    assert found.kind == "numbers" and found.samples == labels.size
    for name, function in (
        ("mean-squared-error", reference.mean_squared_error),
        ("mean-absolute-error", reference.mean_absolute_error),
    ):
        assert found.values[name] == pytest.approx(function(labels, wanted), rel=1e-5)


def test_integers_are_numbers_for_a_model_of_one_output() -> None:
    session = Session(linear(WEIGHT[:, :1]))
    labels = LABELS.copy()
    labels[:10] = -100
    found = evaluate(session, {"x": X}, labels)
    wanted = (X @ WEIGHT[:, :1])[10:, 0]
    assert found.samples == 40
    assert found.values["mean-squared-error"] == pytest.approx(
        reference.mean_squared_error(labels[10:], wanted), rel=1e-5
    )
    assert evaluate(Session(linear(WEIGHT)), {"x": X}, LABELS).kind == "classes"


def test_control_float_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        evaluate(Session(linear(WEIGHT)), {"x": X}, np.zeros((50, 3), np.float32))
