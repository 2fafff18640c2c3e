"""Scores: planted pairs stand out, unrelated pairs do not, and one lineage is seen as such."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_pair import Model, Shape, draw_model, gaussian, heavy, noisy, pair, plant

from graphrebase.align import AlignmentProblem, Evidence, align, lineage


@pytest.mark.parametrize("draw", [heavy, gaussian])
def test_naive_addition_of_unrelated_models_scores_like_chance(draw):
    problem = pair(draw_model(Shape(), 0, draw), draw_model(Shape(), 1, draw))
    details = align(problem, method="naive").details
    assert abs(details.z) < 4
    assert abs(details.score) < 0.05
    assert details.beyond_chance is None


@pytest.mark.parametrize("draw", [heavy, gaussian])
def test_planted_pairs_stand_out_and_unrelated_pairs_do_not(draw):
    a = draw_model(Shape(), 0, draw)
    planted = align(plant(a, 0)[0]).details
    unrelated = align(pair(a, draw_model(Shape(), 1, draw))).details
    assert planted.z > 50
    assert planted.score > 0.98
    assert planted.beyond_chance > 0.98
    assert planted.lineage == "permuted"
    assert abs(unrelated.beyond_chance) < 0.1
    assert unrelated.lineage == "independent"
    # Against random alignments alone, an optimised match of noise would look like a find.
    assert unrelated.z > 10


def test_every_space_of_a_planted_pair_scores():
    details = align(plant(draw_model(Shape(), 0), 0)[0], shuffled_draws=0).details
    assert set(details.space_scores) == set(draw_model(Shape(), 0).spaces)
    assert min(details.space_scores.values()) > 0.97
    assert min(details.space_z.values()) > 5


def test_a_space_that_does_not_match_is_seen():
    a = draw_model(Shape(), 0)
    problem, _ = plant(a, 0)
    other = draw_model(Shape(), 5)
    spoiled = tuple(
        type(w)(w.role, w.axes, w.a, (lambda x=x: x) if w.role.startswith("block.1.fc") else w.b)
        for w, (_, _, x) in zip(problem.weights, other.weights, strict=True)
    )
    scores = align(AlignmentProblem(problem.spaces, spoiled), shuffled_draws=0).details.space_scores
    assert min(scores, key=scores.__getitem__) == "block.1.mlp"


@pytest.mark.parametrize("draw", [heavy, gaussian])
@pytest.mark.parametrize(
    ("noise", "verdict"),
    [(0.0, "identical"), (0.01, "same lineage"), (1.0, "same lineage"), (None, "independent")],
)
def test_lineage(draw, noise, verdict):
    a = draw_model(Shape(), 0, draw)
    b = draw_model(Shape(), 1, draw) if noise is None else noisy(a, noise, 0) if noise else a
    problem = pair(a, b)
    assert lineage(Evidence(problem))[0] == verdict
    found = align(problem, shuffled_draws=0)
    assert found.details.lineage == verdict
    if noise is not None:  # every method must find the identity and not spoil it
        assert found.details.objective >= align(problem, method="naive").details.objective


def test_one_copied_tensor_is_no_lineage():
    a, b = draw_model(Shape(), 0), draw_model(Shape(), 1)
    shared = tuple(
        x if x[0] == "embedding" else y for x, y in zip(a.weights, b.weights, strict=True)
    )
    assert lineage(Evidence(pair(a, Model(a.spaces, shared))))[0] == "independent"


def test_shuffled_weights_keep_their_values():
    evidence = Evidence(pair(draw_model(Shape(), 0), draw_model(Shape(), 1)))
    mixed = evidence.shuffled(0)
    for index in evidence.movable:
        before, after = evidence.pair(index)[0], mixed.pair(index)[0]
        assert not np.array_equal(before, after)
        assert np.array_equal(np.sort(before, axis=None), np.sort(after, axis=None))


def test_a_problem_without_movable_weights():
    details = align(AlignmentProblem({}, ())).details
    assert (details.objective, details.score, details.lineage) == (0.0, 0.0, "identical")
