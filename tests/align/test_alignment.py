"""Laws of alignments: a group, acting on arrays, that leaves contractions as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_pair import Shape, draw_model, spaces_of

from graphrebase.align import (
    Alignment,
    check_fits,
    compose,
    identity,
    identity_share,
    inverse,
    is_identity,
    random_alignment,
    transport,
)
from graphrebase.errors import MismatchError

SHAPES = st.builds(
    Shape,
    layers=st.just(1),
    width=st.integers(1, 7),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 5),
    members=st.integers(1, 3),
    mlp=st.integers(1, 9),
    shared=st.booleans(),
    rotary=st.booleans(),
)
SEEDS = st.integers(0, 2**16)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_transport_there_and_back_changes_nothing(shape, seed):
    model = draw_model(shape, seed)
    there = random_alignment(model.spaces, seed)
    back = inverse(there, model.spaces)
    for _, axes, array in model.weights:
        moved = transport(array, axes, there, model.spaces)
        assert np.array_equal(transport(moved, axes, back, model.spaces), array)
    assert is_identity(compose(back, there, model.spaces))
    assert is_identity(compose(there, back, model.spaces))


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_composition_transports_in_turn(shape, seed):
    model = draw_model(shape, seed)
    first, second = (random_alignment(model.spaces, seed + k) for k in (1, 2))
    both = compose(second, first, model.spaces)
    for _, axes, array in model.weights:
        in_turn = transport(transport(array, axes, first, model.spaces), axes, second, model.spaces)
        assert np.array_equal(transport(array, axes, both, model.spaces), in_turn)


def test_transported_query_is_as_documented():
    model = draw_model(Shape(layers=1, members=2), 0)
    moved = random_alignment(model.spaces, 3)
    weights = {role: (axes, array) for role, axes, array in model.weights}
    axes, q = weights["block.0.q"]
    out = transport(q, axes, moved, model.spaces)
    head, member, qk, stream = (moved.maps[name] for name in axes)
    for j, m, r in np.ndindex(out.shape[:3]):
        assert np.array_equal(out[j, m, r], q[head[j], member[j, m], qk[j, r]][stream])
    axes, o = weights["block.0.o"]  # the inner axis comes after the head axis, the stream before
    out = transport(o, axes, moved, model.spaces)
    stream, head, member, vo = (moved.maps[name] for name in axes)
    for j, m, r in np.ndindex(out.shape[1:]):
        assert np.array_equal(out[:, j, m, r], o[stream, head[j], member[j, m], vo[j, r]])


def test_transport_of_an_axis_before_its_head():
    spaces = spaces_of(Shape(layers=1))
    moved = random_alignment(spaces, 4)
    array = np.random.default_rng(0).standard_normal((4, 8))
    axes = ("block.0.head", "block.0.head_qk")
    straight = transport(array, axes, moved, spaces)
    assert np.array_equal(transport(array.T, axes[::-1], moved, spaces), straight.T)


def attention_and_mlp(model, x):
    """One block without norms on x (tokens, width) by query heads; grouped queries included."""
    w = {role.removeprefix("block.0."): array for role, _, array in model}
    q = np.einsum("hmdk,tk->hmtd", w["q"], x) + w["q_bias"][:, :, None]
    k, v = (np.einsum("hdk,tk->htd", w[n], x) + w[n + "_bias"][:, None] for n in "kv")
    scores = np.exp(np.einsum("hmtd,hsd->hmts", q, k))
    read = np.einsum("hmts,hsd->thmd", scores / scores.sum(-1, keepdims=True), v)
    middle = np.einsum("khmd,thmd->tk", w["o"], read) + w["o_bias"]
    hidden = np.maximum(middle @ w["fc1"].T + w["fc1_bias"], 0)
    return middle, hidden @ w["fc2"].T + w["fc2_bias"]


@pytest.mark.parametrize("left_out", [None, "block.0.head", "block.0.head_qk", "block.0.mlp"])
def test_transport_keeps_what_a_block_computes(left_out):
    model = draw_model(Shape(layers=1, members=2), 5)
    moved = random_alignment(model.spaces, 6)
    x = np.random.default_rng(7).standard_normal((5, 32))

    def transported(role, axes, array):
        if role == "block.0.k" and left_out in axes:  # the control: one member stays behind
            kept = {**moved.maps, left_out: identity(model.spaces).maps[left_out]}
            return transport(array, axes, Alignment(kept, "broken"), model.spaces)
        if role == "block.0.fc2" and left_out in axes:
            axes = tuple(None if axis == left_out else axis for axis in axes)
        return transport(array, axes, moved, model.spaces)

    other = [(role, axes, transported(role, axes, array)) for role, axes, array in model.weights]
    middle, end = attention_and_mlp(model.weights, x)
    new_middle, new_end = attention_and_mlp(other, x[:, moved.maps["residual.0"]])
    same = np.allclose(new_middle, middle[:, moved.maps["residual.1"]], atol=1e-5) and np.allclose(
        new_end, end[:, moved.maps["residual.2"]], atol=1e-5
    )
    assert same == (left_out is None)


def test_identity_share():
    spaces = spaces_of(Shape())
    assert identity_share(identity(spaces)) == 1.0
    assert identity_share(random_alignment(spaces, 0)) < 0.3
    assert not is_identity(random_alignment(spaces, 0))


def test_random_alignment_depends_on_the_seed_only():
    spaces = spaces_of(Shape())
    one, same, other = (random_alignment(spaces, seed).maps for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in spaces)
    assert not all(np.array_equal(one[name], other[name]) for name in spaces)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda maps: maps.pop("residual.0"),
        lambda maps: maps.update(extra=np.arange(3)),
        lambda maps: maps.update({"residual.0": np.arange(31)}),
        lambda maps: maps.update({"residual.0": np.zeros(32, np.int64)}),
        lambda maps: maps.update({"residual.0": np.arange(32.0)}),
        lambda maps: maps.update({"block.0.head_qk": np.arange(8)}),
    ],
)
def test_alignment_of_other_models_is_refused(spoil):
    spaces = spaces_of(Shape())
    maps = dict(identity(spaces).maps)
    check_fits(Alignment(maps, "x"), spaces)
    spoil(maps)
    with pytest.raises(MismatchError):
        check_fits(Alignment(maps, "x"), spaces)


@pytest.mark.parametrize("axes", [("residual.0",), ("residual.0", "nowhere"), (None, "residual.0")])
def test_transport_refuses_arrays_that_do_not_fit(axes):
    spaces = spaces_of(Shape())
    with pytest.raises(MismatchError):
        transport(np.zeros((32, 31)), axes, identity(spaces), spaces)
