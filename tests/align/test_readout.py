"""The last block's Newton steps: the readout is exact, its gradient right, its steps descend."""

from __future__ import annotations

import numpy as np
import pytest

from graphrebase.align.readout import Readout, Samples, log_softmax, refine

RNG = np.random.default_rng(0)
CLASSES, WIDTH, HIDDEN, COUNT = 7, 6, 9, 60


def readout(*, centred: bool = True, normed: bool = True) -> Readout:
    rng = np.random.default_rng(1)
    return Readout(
        rng.standard_normal((CLASSES, WIDTH)), rng.standard_normal(CLASSES), centred, normed
    )


@pytest.mark.parametrize(("centred", "normed"), [(True, True), (False, True), (False, False)])
def test_the_gradient_is_that_of_the_cross_entropy(centred: bool, normed: bool) -> None:
    made = readout(centred=centred, normed=normed)
    stream, wanted = RNG.standard_normal((3, WIDTH)), RNG.dirichlet(np.ones(CLASSES), 3)

    def loss(x: np.ndarray) -> float:
        return float(-(wanted * log_softmax(made.logits(x))).sum())

    normalised, size = made.normalise(stream)
    back = made.back(normalised, size, wanted - np.exp(log_softmax(made.logits(stream))))
    for row, column in np.ndindex(*stream.shape):
        step = np.zeros_like(stream)
        step[row, column] = 1e-5
        slope = (loss(stream + step) - loss(stream - step)) / 2e-5
        assert slope == pytest.approx(-back[row, column], rel=1e-3, abs=1e-5)


def samples(made: Readout, true: np.ndarray) -> Samples:
    hidden = RNG.standard_normal((COUNT, HIDDEN))
    before = RNG.standard_normal((COUNT, WIDTH))
    wanted = np.exp(log_softmax(made.logits(before + hidden @ true.T)))
    return Samples(hidden, before, wanted, RNG.uniform(0.5, 1.5, COUNT))


def divergence(made: Readout, found: Samples, change: np.ndarray) -> float:
    log = log_softmax(made.logits(found.before + found.hidden @ change.T))
    terms = found.wanted * (np.log(found.wanted) - log)
    return float(found.weights @ terms.sum(axis=1))


def test_steps_reach_logits_that_can_be_reached() -> None:
    made, true = readout(), RNG.standard_normal((WIDTH, HIDDEN)) * 0.3
    found = samples(made, true)
    start = np.zeros_like(true)
    gram = found.hidden.T @ (found.hidden * found.weights[:, None])
    values = [
        divergence(made, found, refine(made, found, start, gram, 1e-6, n)) for n in (0, 1, 3, 30)
    ]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.1 * values[0]
    held = refine(made, found, start, gram, 1e6, 30)
    assert divergence(made, found, held) > 0.99 * values[0]


def test_tokens_without_weight_do_not_count() -> None:
    made, true = readout(), RNG.standard_normal((WIDTH, HIDDEN)) * 0.3
    found = samples(made, true)
    start, gram = np.zeros_like(true), found.hidden.T @ found.hidden
    half = found.weights.copy()
    half[COUNT // 2 :] = 0.0
    some = Samples(found.hidden, found.before, found.wanted, half)
    spoilt = found.wanted.copy()
    spoilt[COUNT // 2 :] = 1 / CLASSES
    other = Samples(found.hidden, found.before, spoilt, half)
    one, two = (refine(made, x, start, gram, 1e-3, 4) for x in (some, other))
    np.testing.assert_allclose(one, two, atol=1e-10)
    whole = Samples(found.hidden, found.before, spoilt, found.weights)
    assert np.abs(refine(made, whole, start, gram, 1e-3, 4) - one).max() > 1e-3


def test_a_readout_that_is_not_the_model_is_noticed() -> None:
    made, stream = readout(), RNG.standard_normal((5, WIDTH))
    logits = made.logits(stream)
    assert made.agrees(stream, logits)
    assert not made.agrees(stream, 30 * np.tanh(logits / 30) + 0.1)
    assert not made.agrees(stream, logits[:, 1:])
    assert not made.agrees(stream, None)
