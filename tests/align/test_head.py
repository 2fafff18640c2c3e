"""A head fitted again: what features say is found, what they do not is left as it was."""

from __future__ import annotations

import numpy as np
import pytest

from graphrebase.align.head import Head, Readings, refit

WIDTH, CLASSES = 12, 4
RNG = np.random.default_rng(0)
TRUE = Head(RNG.standard_normal((CLASSES, WIDTH)), RNG.standard_normal(CLASSES))


def readings(samples: int, *, tokens: int = 1, seed: int = 1) -> Readings:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((samples * tokens, WIDTH)) + 2.0
    return Readings(
        features,
        TRUE.logits(features),
        np.ones(samples * tokens),
        np.repeat(np.arange(samples), tokens),
    )


def start(distance: float) -> Head:
    rng = np.random.default_rng(2)
    return Head(
        TRUE.weight + distance * rng.standard_normal(TRUE.weight.shape),
        TRUE.bias + distance * rng.standard_normal(CLASSES),
    )


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_linear_head_is_found(tokens: int) -> None:
    found = refit(readings(200, tokens=tokens), start(1.0))
    new = readings(50, seed=3)
    wanted, far = new.wanted, np.abs(start(1.0).logits(new.features) - new.wanted).max()
    assert np.abs(found.head.logits(new.features) - wanted).max() < 0.05 * far
    assert found.lost < 0.01 * found.moved


def test_few_samples_change_what_they_show_and_nothing_else() -> None:
    few, old = readings(6), start(0.3)
    found = refit(few, old)
    change = found.head.weight - old.weight
    middle = few.features - few.features.mean(axis=0)
    unseen = np.linalg.svd(middle, full_matrices=True)[2][5:]
    assert np.abs(change @ unseen.T).max() < 1e-9 < np.abs(change).max()


def test_noise_does_not_spoil_a_good_head() -> None:
    rng = np.random.default_rng(4)
    noisy = readings(16)
    noisy = Readings(
        noisy.features,
        noisy.wanted + 2.0 * rng.standard_normal(noisy.wanted.shape),
        noisy.weights,
        noisy.samples,
    )
    found = refit(noisy, TRUE)
    assert np.abs(found.head.weight - TRUE.weight).max() < 0.5


def test_what_weighs_nothing_is_not_seen() -> None:
    both = readings(80)
    wrong = np.where(np.arange(80)[:, None] < 40, both.wanted, -both.wanted)
    hidden = Readings(both.features, wrong, (np.arange(80) < 40).astype(float), both.samples)
    seen = Readings(both.features, wrong, both.weights, both.samples)
    new = readings(50, seed=3)
    errors = [
        np.abs(refit(x, start(1.0)).head.logits(new.features) - new.wanted).max()
        for x in (hidden, seen)
    ]
    assert errors[0] < 0.2 * errors[1]


def test_a_head_without_bias_keeps_none() -> None:
    found = refit(readings(200), Head(TRUE.weight, np.zeros(CLASSES)), has_bias=False)
    np.testing.assert_array_equal(found.head.bias, 0.0)


@pytest.mark.parametrize("samples", [1, 2])
def test_hardly_any_samples_do_not_fail(samples: int) -> None:
    found = refit(readings(samples), start(1.0))
    assert np.isfinite(found.head.weight).all()


def test_one_output_is_a_number() -> None:
    full = readings(200)
    one = Readings(full.features, full.wanted[:, :1], full.weights, full.samples)
    begin = start(1.0)
    found = refit(one, Head(begin.weight[:1], begin.bias[:1]))
    assert found.lost < 0.01 * found.moved
