"""Spectral head matching: exact singular values, blind to everything but the heads."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_pair import Shape, draw_model, pair, plant

from graphrebase.align import AlignmentProblem, Evidence, Space, Weight
from graphrebase.align.spectral import head_costs, match_heads, singular_values


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (3, 5, 5)])
def test_singular_values_are_numpys(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    expected = np.linalg.svd(x, compute_uv=False)[..., ::-1]
    np.testing.assert_allclose(singular_values(x), expected, rtol=1e-10)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("members", [1, 3])
def test_planted_heads_have_distance_zero(members, with_bias):
    problem, maps = plant(draw_model(Shape(members=members), 0), 0, noise=0.0)
    for name in ("block.0.head", "block.1.head"):
        cost, found = head_costs(Evidence(problem), name, with_bias=with_bias)
        on = cost[np.arange(4), maps[name]]
        assert on.max() < 1e-4 < np.sort(cost, axis=1)[:, 1].min()
        for member, table in found.items():
            assert np.array_equal(table[np.arange(4), maps[name]], maps[member])


def test_bias_column_counts():
    a = draw_model(Shape(layers=1), 0)
    weights = tuple((r, x, w + (r == "block.0.q_bias")) for r, x, w in a.weights)
    evidence = Evidence(pair(a, type(a)(a.spaces, weights)))
    blind, seeing = (head_costs(evidence, "block.0.head", with_bias=b)[0] for b in (False, True))
    assert blind.diagonal().max() < 1e-4 < seeing.diagonal().min()


def test_a_head_space_of_several_blocks_adds_their_distances():
    rng = np.random.default_rng(0)
    spaces = {"head": Space("head", "head", 4), "d": Space("d", "head_qk", 8, "head", 4)}
    pairs = [rng.standard_normal((2, 4, 8, 16)) for _ in range(2)]
    weights = tuple(
        Weight(f"q{i}", ("head", "d", None), lambda p=p: p[0], lambda p=p: p[1])
        for i, p in enumerate(pairs)
    )
    both = head_costs(Evidence(AlignmentProblem(spaces, weights)), "head")[0]
    each = [head_costs(Evidence(AlignmentProblem(spaces, (w,))), "head")[0] for w in weights]
    np.testing.assert_allclose(both, each[0] + each[1])


def test_per_head_constants_count_by_value():
    table = np.random.default_rng(0).standard_normal((5, 4))
    order = np.array([2, 0, 3, 1])
    spaces = {"head": Space("head", "head", 4)}
    weight = Weight("bias_table", (None, "head"), lambda: table, lambda: table[:, order])
    found = match_heads(Evidence(AlignmentProblem(spaces, (weight,))))
    assert found["head"].tolist() == order.tolist()


def test_fixed_heads_stay():
    problem, maps = plant(draw_model(Shape(), 0), 0)
    held = AlignmentProblem(problem.spaces, problem.weights, frozenset({"block.0.head"}))
    found = match_heads(Evidence(held))
    assert "block.0.head" not in found
    assert np.array_equal(found["block.1.head"], maps["block.1.head"])
