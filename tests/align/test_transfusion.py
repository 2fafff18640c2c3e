"""The method: planted maps are found exactly, and no objective of the published code is higher."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from published import backward, natural, published, shuffled
from synthetic_pair import Model, Shape, draw_model, gaussian, heavy, noisy, pair, plant

from graphrebase.align import AlignmentProblem, Evidence, Options, Space, Weight, align, is_identity
from graphrebase.align.action import permute_axes
from graphrebase.align.ascent import Stop, climb, units
from graphrebase.align.evidence import Maps
from graphrebase.align.heads import rematch
from graphrebase.align.maps import identity_maps, random_maps
from graphrebase.align.score import objective
from graphrebase.align.transfusion import transfusion
from graphrebase.errors import UsageError


def assert_found(alignment, truth):
    wrong = [name for name in truth if not np.array_equal(alignment.maps[name], truth[name])]
    assert not wrong


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("intra", ["paper", "split"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("draw", [heavy, gaussian])
def test_planted_alignment_is_found_exactly(draw, members, shared, intra, seed):
    shape = Shape(layers=2 + seed, members=members, shared=shared)
    problem, truth = plant(draw_model(shape, seed, draw), seed, intra=intra)
    assert_found(align(problem, intra=intra, seed=seed, shuffled_draws=0), truth)


@pytest.mark.parametrize("shared", [False, True])
def test_planted_llama_is_found_exactly(shared):
    shape = Shape(members=2, rotary=True, gated=True, shared=shared)
    problem, truth = plant(draw_model(shape, 0), 0)
    assert_found(align(problem, shuffled_draws=0), truth)


def test_paper_shares_one_map_inside_a_head_and_split_does_not():
    problem, _ = plant(draw_model(Shape(), 0), 0, intra="split")
    for intra in ("paper", "split"):
        maps = align(problem, intra=intra, shuffled_draws=0).maps
        same = [
            np.array_equal(maps[f"block.{i}.head_qk"], maps[f"block.{i}.head_vo"]) for i in "01"
        ]
        assert same == [intra == "paper"] * 2


@pytest.mark.parametrize("intra", ["paper", "split"])
@pytest.mark.parametrize("kind", ["planted", "independent", "lineage"])
def test_objective_is_at_least_the_published_one(kind, intra):
    for shared, seed in itertools.product((False, True), range(2)):
        a, other = (draw_model(Shape(shared=shared), k) for k in (seed, seed + 50))
        problem = {
            "planted": plant(a, seed, intra=intra)[0],
            "independent": pair(a, other),
            "lineage": pair(a, noisy(a, 1.0, seed)),
        }[kind]
        evidence = Evidence(problem)
        ours = align(problem, intra=intra, seed=seed, shuffled_draws=0).details.objective
        for order in (shuffled(seed), natural, backward):
            theirs = objective(evidence, published(problem, order))
            assert ours >= theirs * (1 - 1e-6)


def permuted_only(a: Model, names, seed=0):
    """A and A with only the named spaces permuted (one map inside heads, as published)."""
    drawn = random_maps(a.spaces, np.random.default_rng(seed), intra="paper")
    truth = {**identity_maps(a.spaces), **{name: drawn[name] for name in names}}
    moved = tuple((r, x, permute_axes(w, x, truth, a.spaces, np)) for r, x, w in a.weights)
    return pair(a, Model(a.spaces, moved)), truth


WIDE = Shape(mlp=256, vocab=200)


def test_maps_inside_heads_are_found_though_the_first_sweep_finds_nothing():
    names = [f"block.{i}.head_{kind}" for i in (0, 1) for kind in ("qk", "vo")]
    problem, truth = permuted_only(draw_model(WIDE, 0, gaussian), names)
    theirs = published(problem, natural)
    assert all(np.array_equal(theirs[n], m) for n, m in identity_maps(problem.spaces).items())
    assert_found(align(problem, intra="paper", shuffled_draws=0), truth)


def test_index_zero_is_not_skipped():
    problem, truth = permuted_only(draw_model(Shape(), 0), ["residual.0"])
    theirs = published(problem, backward)["residual.0"]
    assert np.array_equal(theirs, np.arange(32))
    assert_found(align(problem, shuffled_draws=0), truth)


def test_progress_of_every_attention_layer_counts():
    names = ["block.0.head", "block.0.head_qk", "block.0.head_vo"]
    problem, truth = permuted_only(draw_model(WIDE, 0, gaussian), names)
    theirs = published(problem, natural)  # the last layer stands still and overwrites the record
    assert np.array_equal(theirs["block.0.head"], truth["block.0.head"])
    assert np.array_equal(theirs["block.0.head_qk"], identity_maps(problem.spaces)[names[1]])

    def layers_swapped(count):
        return [*range(count - 2), count - 1, count - 2]

    assert np.array_equal(published(problem, layers_swapped)[names[1]], truth[names[1]])  # control
    assert_found(align(problem, intra="paper", shuffled_draws=0), truth)


def test_biases_decide_where_matrices_are_silent():
    order = np.random.default_rng(0).permutation(16)
    bias = np.arange(16.0)
    spaces = {"mlp": Space("mlp", "mlp", 16)}
    weights = (
        Weight("fc1", ("mlp", None), lambda: np.ones((16, 4)), lambda: np.ones((16, 4))),
        Weight("fc1_bias", ("mlp",), lambda: bias, lambda: bias[order]),
    )
    found = align(AlignmentProblem(spaces, weights), shuffled_draws=0)
    assert np.array_equal(found.maps["mlp"], order)


def test_equal_models_keep_their_order_even_where_nothing_decides():
    a = draw_model(Shape(), 0)
    dead = tuple((r, x, w * 0 if "mlp" in str(x) else w) for r, x, w in a.weights)
    model = Model(a.spaces, dead)
    assert is_identity(align(pair(model, model), shuffled_draws=0))


@pytest.mark.parametrize("kind", ["planted", "independent"])
@pytest.mark.parametrize("members", [1, 2])
def test_objective_never_falls(kind, members):
    a = draw_model(Shape(members=members), 0)
    b = draw_model(Shape(members=members), 1)
    problem = plant(a, 0)[0] if kind == "planted" else pair(a, b)
    evidence = Evidence(problem)
    maps = Maps(identity_maps(problem.spaces))
    result = climb(evidence, maps, units(evidence, "split"), Stop(), start="test")
    steps = np.diff(result.history)
    assert steps.min() >= -1e-7 * abs(result.objective)
    assert steps.sum() > 0
    np.testing.assert_allclose(result.objective, objective(Evidence(problem), maps.arrays()))


@pytest.mark.parametrize("members", [1, 2])
def test_rematching_heads_repairs_a_wrong_match_and_reports_its_gain(members):
    problem, truth = plant(draw_model(Shape(members=members), 0), 0)
    evidence, maps = Evidence(problem), Maps(truth)
    owner = {unit[0]: unit[0] for unit in units(evidence, "split")}
    assert rematch(evidence, maps, "block.0.head", owner) == 0.0  # control: nothing to gain
    maps.set("block.0.head", np.roll(truth["block.0.head"], 1))
    before = evidence.objective(maps)
    gain = rematch(evidence, maps, "block.0.head", owner)
    assert gain > 0
    assert evidence.objective(maps) - before == pytest.approx(gain, rel=1e-4)
    if members == 1:  # with members the pairs are solved alternately, not exactly
        assert_found(type("A", (), {"maps": maps.arrays()}), truth)


def test_same_seed_same_alignment():
    problem = pair(draw_model(Shape(), 0), draw_model(Shape(), 1))
    one, two = (align(problem, seed=3) for _ in range(2))
    assert one.details == two.details
    assert all(np.array_equal(one.maps[name], two.maps[name]) for name in one.maps)


def test_fixed_spaces_stay_and_the_inside_of_fixed_heads_is_found():
    a = draw_model(Shape(), 0)
    held = frozenset({"block.0.head", "residual.1"})
    truth = random_maps(a.spaces, np.random.default_rng(0), fixed=held)
    moved = tuple((r, x, permute_axes(w, x, truth, a.spaces, np)) for r, x, w in a.weights)
    free = pair(a, noisy(Model(a.spaces, moved), 0.1, 0))
    problem = AlignmentProblem(free.spaces, free.weights, held)
    assert_found(align(problem, shuffled_draws=0), truth)


def test_a_weight_that_has_a_space_twice():
    rng = np.random.default_rng(0)
    spaces = {"residual": Space("residual", "residual", 24)}
    a = [rng.standard_normal((50, 24)), rng.standard_normal((24, 24))]
    order = rng.permutation(24)
    b = [a[0][:, order], a[1][np.ix_(order, order)]]
    axes = [(None, "residual"), ("residual", "residual")]
    weights = tuple(Weight(f"w{i}", axes[i], lambda i=i: a[i], lambda i=i: b[i]) for i in range(2))
    found = align(AlignmentProblem(spaces, weights), shuffled_draws=0)
    assert np.array_equal(found.maps["residual"], order)


def test_heads_tied_across_blocks():
    a = draw_model(Shape(layers=2), 0)
    spaces = {n: s for n, s in a.spaces.items() if n != "block.1.head"}
    spaces |= {
        n: Space(n, s.kind, s.size, "block.0.head", s.count) for n, s in spaces.items() if s.over
    }
    weights = tuple(
        (r, tuple("block.0.head" if n == "block.1.head" else n for n in x), w)
        for r, x, w in a.weights
    )
    problem, truth = plant(Model(spaces, weights), 0)
    assert_found(align(problem, shuffled_draws=0), truth)


def test_small_cache_gives_the_same_result():
    problem = pair(draw_model(Shape(), 0), draw_model(Shape(), 1))
    found = [transfusion(Evidence(problem, cache_bytes=n), Options()) for n in (0, 1 << 30)]
    assert found[0].history == found[1].history


@pytest.mark.parametrize(
    "wrong",
    [{"method": "magic"}, {"intra": "both"}, {"device": "tpu"}, {"max_sweeps": 0}, {"seed": -1}],
)
def test_wrong_use_is_refused(wrong):
    with pytest.raises(UsageError):
        align(plant(draw_model(Shape(), 0), 0)[0], **wrong)
