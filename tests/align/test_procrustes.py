"""Maps inside heads: planted ones are found, whatever basis the head was trained in."""

from __future__ import annotations

import numpy as np
import pytest

from graphrebase.align.procrustes import balance, circuit_map, polar, rotary_map


def test_polar_is_the_nearest_rotation():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    stretch = rng.standard_normal((5, 5))
    np.testing.assert_allclose(polar(rotation @ (stretch @ stretch.T)), rotation)


def test_balanced_factors_have_equal_grams():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 9)), rng.standard_normal((4, 7))
    forward, dual = balance(x, y)
    np.testing.assert_allclose(dual.T @ forward, np.eye(4), atol=1e-12)
    grams = forward @ x @ x.T @ forward.T, dual @ y @ y.T @ dual.T
    np.testing.assert_allclose(*grams, atol=1e-12)
    assert not np.allclose(x @ x.T, y @ y.T)


def test_a_planted_inner_basis_is_found():
    rng = np.random.default_rng(0)
    x, y, planted = (rng.standard_normal(s) for s in ((4, 9), (4, 7), (4, 4)))
    found = circuit_map(planted @ x, np.linalg.inv(planted).T @ y, x, y)
    np.testing.assert_allclose(found, planted)
    shuffled = circuit_map(rng.permutation(planted @ x, axis=1), y, x, y)
    assert not np.allclose(shuffled, planted)


def test_a_degenerate_head_keeps_its_basis():
    zero = np.zeros((4, 9))
    np.testing.assert_array_equal(circuit_map(zero, zero, zero, zero), np.eye(4))


@pytest.mark.parametrize("pairs", [((0, 2), (1, 3)), ((0, 1), (2, 3)), ((0, 1),)])
def test_planted_turns_of_rotary_pairs_are_found(pairs):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 9)), rng.standard_normal((4, 7))
    planted = np.zeros((4, 4))
    for number, (i, j) in enumerate(pairs):
        scale, angle = 1.5 + number, 0.7 - number
        planted[np.ix_((i, j), (i, j))] = scale * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
    rest = np.setdiff1d(np.arange(4), np.ravel(pairs))
    planted[rest, rest] = 2.0
    found = rotary_map(planted @ x, np.linalg.inv(planted).T @ y, x, y, pairs)
    np.testing.assert_allclose(found, planted, atol=1e-9)
