"""Laws of linear assignment: the optimum is scipy's, whatever shortcut was taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from graphrebase.align import assignment
from graphrebase.align.assignment import best_permutation, column_potentials


def optimum(similarity):
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return similarity[rows, columns].sum()


def check_optimal(similarity):
    best = best_permutation(similarity)
    assert best.dtype == np.int64
    assert sorted(best) == list(range(len(similarity)))
    reached = similarity[np.arange(len(similarity)), best].sum()
    assert reached == pytest.approx(optimum(similarity), rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["random", "low rank", "integer", "columns", "constant"]),
    potentials=st.booleans(),
)
def test_optimum_is_scipys(n, seed, kind, potentials):
    rng = np.random.default_rng(seed)
    similarity = {
        "random": lambda: rng.standard_normal((n, n)),
        "low rank": lambda: rng.standard_normal((n, 2)) @ rng.standard_normal((2, n)),
        "integer": lambda: rng.integers(-3, 3, (n, n)).astype(float),
        "columns": lambda: rng.standard_normal((n, n)) + 100 * rng.standard_normal(n),
        "constant": lambda: np.zeros((n, n)),
    }[kind]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "SMALL", 1 if potentials else 10**6)
        check_optimal(similarity)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_optimum_on_weight_similarities(share):
    rng = np.random.default_rng(0)
    a = rng.standard_t(4, (300, 40)) * np.exp(rng.standard_normal((300, 1)))
    b = share * a[rng.permutation(300)] + (1 - share) * rng.permutation(a.ravel()).reshape(a.shape)
    check_optimal(b @ a.T)


def test_potentials_bring_rows_to_distinct_columns():
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((300, 60)) * rng.gamma(1.0, size=(300, 1)) for _ in range(2))
    similarity = b @ a.T
    shifted = similarity - column_potentials(similarity)
    assert np.unique(shifted.argmax(1)).size > 2 * np.unique(similarity.argmax(1)).size


def test_without_lapx_scipy_solves(monkeypatch):
    similarity = np.random.default_rng(2).standard_normal((30, 30))
    monkeypatch.setattr(assignment, "_solver", lambda: assignment.solve_scipy)
    check_optimal(similarity)


def test_control_greedy_choice_is_not_optimal():
    similarity = np.array([[10.0, 9.0], [9.0, 1.0]])
    assert best_permutation(similarity).tolist() == [1, 0]
    assert similarity[[0, 1], [0, 1]].sum() < similarity[[0, 1], [1, 0]].sum()
