"""Alignments of matrices: transport, inverse, composition and the file."""

from __future__ import annotations

import numpy as np
import pytest

from graphrebase.align import (
    Alignment,
    Space,
    check_fits,
    compose,
    inverse,
    is_identity,
    load,
    save,
    transport,
)
from graphrebase.align.maps import as_matrix
from graphrebase.errors import MismatchError

SPACES = {
    "residual": Space("residual", "residual", 6),
    "head": Space("head", "head", 3),
    "head_qk": Space("head_qk", "head_qk", 2, "head", 3),
    "sign": Space("sign", "mlp", 4),
}
AXES = ("head", "head_qk", "residual")


def drawn(seed: int) -> Alignment:
    rng = np.random.default_rng(seed)
    return Alignment(
        {
            "residual": rng.standard_normal((6, 6)),
            "head": rng.permutation(3),
            "head_qk": rng.standard_normal((3, 2, 2)),
            "sign": np.array([1.0, -1.0, -1.0, 1.0]),
        },
        "drawn",
    )


def test_transport_multiplies_every_axis():
    found = drawn(0)
    array = np.random.default_rng(1).standard_normal((3, 2, 6))
    moved = transport(array, AXES, found, SPACES)
    matrix, head, inner = (found.maps[n] for n in ("residual", "head", "head_qk"))
    for j in range(3):
        np.testing.assert_allclose(moved[j], inner[j] @ array[head[j]] @ matrix.T)


def test_a_weight_and_a_dual_weight_keep_their_contraction():
    found = drawn(0)
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 3, 2, 6))
    before = np.einsum("hdi,hdj->ij", q, k)
    axes = ("head", "head_qk", None)
    moved = transport(q, axes, found, SPACES), transport(k, axes, found, SPACES, dual={1})
    np.testing.assert_allclose(np.einsum("hdi,hdj->ij", *moved), before)
    wrong = np.einsum("hdi,hdj->ij", moved[0], transport(k, axes, found, SPACES))
    assert not np.allclose(wrong, before)


def test_inverse_and_composition_are_those_of_the_transport():
    one, two = drawn(0), drawn(1)
    array = np.random.default_rng(2).standard_normal((3, 2, 6))
    there = transport(array, AXES, one, SPACES)
    np.testing.assert_allclose(transport(there, AXES, inverse(one, SPACES), SPACES), array)
    both = transport(there, AXES, two, SPACES)
    np.testing.assert_allclose(transport(array, AXES, compose(two, one, SPACES), SPACES), both)
    assert is_identity(compose(inverse(one, SPACES), one, SPACES))
    assert not is_identity(one)


def test_an_index_vector_is_the_matrix_it_stands_for():
    index = np.random.default_rng(0).permutation(6)
    array = np.arange(6.0)
    np.testing.assert_array_equal(as_matrix(index) @ array, array[index])


def test_the_file_keeps_matrices(tmp_path):
    found = drawn(0)
    save(found, tmp_path / "x")
    loaded = load(tmp_path / "x")
    for name, value in found.maps.items():
        np.testing.assert_array_equal(loaded.maps[name], value)
        assert loaded.maps[name].dtype == value.dtype


def test_a_matrix_of_another_size_does_not_fit():
    check_fits(drawn(0), SPACES)
    for wrong in (np.eye(5), np.full((6, 6), np.inf), np.eye(6, dtype=np.float32)):
        with pytest.raises(MismatchError):
            check_fits(Alignment({**drawn(0).maps, "residual": wrong}, "x"), SPACES)
