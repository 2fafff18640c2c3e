"""Problems that make no sense are refused, with the place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_pair import Shape, draw_model, pair

from graphrebase.align import AlignmentProblem, Space, Weight, align
from graphrebase.errors import MismatchError, VerificationError

SPACES = {
    "head": Space("head", "head", 4),
    "qk": Space("qk", "head_qk", 8, "head", 4),
    "mlp": Space("mlp", "mlp", 16),
}


def weight(axes, a, b=None):
    return Weight("w", axes, lambda: a, lambda: a if b is None else b)


def test_control_a_sound_problem_is_accepted():
    AlignmentProblem(SPACES, (weight(("head", "qk"), np.zeros((4, 8))),))


@pytest.mark.parametrize(
    "spaces",
    [
        {"other": SPACES["mlp"]},
        {"mlp": Space("mlp", "unit", 16)},
        {"mlp": Space("mlp", "mlp", 0)},
        {"mlp": Space("mlp", "mlp", 16, None, 2)},
        {"qk": SPACES["qk"]},
        {"head": SPACES["head"], "qk": Space("qk", "head_qk", 8, "head", 3)},
    ],
)
def test_spaces_that_do_not_fit_together(spaces):
    with pytest.raises(MismatchError):
        AlignmentProblem(spaces, ())


@pytest.mark.parametrize("axes", [("nowhere",), ("qk",), ("head", "head", "qk")])
def test_axes_that_do_not_fit_the_spaces(axes):
    with pytest.raises(MismatchError):
        AlignmentProblem(SPACES, (weight(axes, np.zeros(1)),))


def test_unknown_fixed_space():
    with pytest.raises(MismatchError):
        AlignmentProblem(SPACES, (), frozenset({"nowhere"}))


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (np.zeros((16, 3)), np.zeros((16, 4)), MismatchError),
        (np.zeros((15, 3)), np.zeros((15, 3)), MismatchError),
        (np.zeros(16), np.zeros(16), MismatchError),
        (np.zeros((16, 3)), np.full((16, 3), np.nan), VerificationError),
        (np.full((16, 3), 1e300), np.zeros((16, 3)), VerificationError),
    ],
)
def test_weights_that_cannot_be_aligned(a, b, error):
    with pytest.raises(error) as caught, np.errstate(over="ignore"):
        align(AlignmentProblem(SPACES, (weight(("mlp", None), a, b),)))
    assert caught.value.where == "w"


def test_half_precision_weights_are_aligned_as_their_float32_values():
    model = draw_model(Shape(), 0)
    halves = tuple((r, x, a.astype(np.float16)) for r, x, a in model.weights)
    wide = tuple((r, x, a.astype(np.float32)) for r, x, a in halves)
    results = [
        align(pair(replace(model, weights=w), model), shuffled_draws=0).details.objective
        for w in (halves, wide)
    ]
    assert results[0] == results[1]
