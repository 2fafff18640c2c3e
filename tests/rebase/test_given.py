"""Some of the user's probes are held out, never so many that the fit starves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as draw
from hypothesis import strategies as st

from graphrebase.errors import InputError
from graphrebase.rebase.given import held_out, least_probes, read_given


@draw(st.integers(0, 5000), st.booleans())
def test_law_a_third_at_most_and_all_or_nothing(count: int, tokens: bool) -> None:
    found = held_out(count, tokens=tokens)
    assert found <= count / 3
    assert (found > 0) == (count >= least_probes(4 if tokens else 16))
    assert found == 0 or found >= (4 if tokens else 16)


def test_usual_numbers() -> None:
    counts = {n: held_out(n, tokens=False) for n in (40, 64, 256, 5000)}
    assert counts == {40: 0, 64: 16, 256: 51, 5000: 256}
    assert held_out(16, tokens=True) == 4


def test_held_out_and_fitted_probes_are_all_and_disjoint(tmp_path: Path) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, x=np.arange(64.0)[:, None], label=np.zeros(64))
    found = read_given(path, None, tokens=False, seed=3)
    assert found.probes is not None and set(found.probes) == {"x"} and len(found.folds) == 8
    judged = []
    for fold in range(8):
        fitted, held = found.fitted(fold), found.held_out(fold)
        assert fitted is not None and held is not None
        parts = [np.ravel(x["x"]) for x in (fitted, held)]
        assert sorted(np.concatenate(parts)) == list(range(64))
        judged.extend(parts[1])
    assert sorted(judged) == list(range(64))
    again = read_given(path, None, tokens=False, seed=3)
    other = read_given(path, None, tokens=False, seed=4)
    np.testing.assert_array_equal(again.folds, found.folds)
    assert not np.array_equal(other.folds, found.folds)


@pytest.mark.parametrize(
    ("count", "tokens", "weights", "sizes"),
    [
        (48, False, 1, [6] * 8),
        (64, False, 1, [8] * 8),
        (256, False, 1, [32] * 8),
        (1000, False, 1, [125] * 3),
        (2000, False, 1, [250] * 2),
        (3000, False, 1, [256]),
        (64, False, 86_000_000, [16]),
        (16, True, 1_000_000, [4] * 4),
        (40, True, 1_000_000, [8] * 2),
        (16, True, 92_000_000, [4]),
    ],
)
def test_parts_that_are_held_out(
    count: int, tokens: bool, weights: int, sizes: list[int], tmp_path: Path
) -> None:
    np.savez(tmp_path / "p.npz", x=np.arange(count))
    found = read_given(tmp_path / "p.npz", None, tokens=tokens, seed=0, weights=weights)
    assert [len(part) for part in found.folds] == sizes
    assert len(set(np.concatenate(found.folds))) == sum(sizes)


def test_few_probes_are_all_fitted_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.arange(40).reshape(20, 2))
    found = read_given(tmp_path / "few.npz", None, tokens=False, seed=0)
    fitted, unseen = found.fitted(), found.unseen()
    assert found.held_out() is None
    assert fitted is not None and len(fitted["x"]) == 20
    assert unseen is not None and len(unseen["x"]) == 20  # a method that fits nothing can be judged
    np.savez(tmp_path / "few.npz", x=np.arange(30).reshape(15, 2))
    assert read_given(tmp_path / "few.npz", None, tokens=False, seed=0).unseen() is None


def test_samples_given_twice_count_once(tmp_path: Path) -> None:
    x, mask = np.repeat(np.arange(30), 2), np.tile([1, 1, 1, 0], 15)
    np.savez(tmp_path / "twice.npz", x=x, mask=mask)
    found = read_given(tmp_path / "twice.npz", None, tokens=False, seed=0).probes
    assert found is not None and len(found["x"]) == 45  # of every second pair one mask differs
    assert np.bincount(found["x"]).tolist() == [1, 2] * 15


def test_control_arrays_that_disagree_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", x=np.zeros((20, 2)), y=np.zeros((19, 2)))
    with pytest.raises(InputError, match="'y' has 19"):
        read_given(tmp_path / "odd.npz", None, tokens=False, seed=0)
