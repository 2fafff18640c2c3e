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
    assert (found > 0) == (count >= least_probes(tokens=tokens))
    assert found == 0 or found >= (4 if tokens else 16)


def test_usual_numbers() -> None:
    counts = {n: held_out(n, tokens=False) for n in (40, 64, 256, 5000)}
    assert counts == {40: 0, 64: 16, 256: 51, 5000: 256}
    assert held_out(16, tokens=True) == 4


def test_held_out_and_fitted_probes_are_all_and_disjoint(tmp_path: Path) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, x=np.arange(64.0)[:, None], label=np.zeros(64))
    found = read_given(path, None, tokens=False, seed=3)
    assert found.fitted is not None and found.held_out is not None and found.probes is not None
    assert set(found.probes) == {"x"}
    parts = [np.ravel(x["x"]) for x in (found.fitted, found.held_out)]
    assert sorted(np.concatenate(parts)) == list(range(64))
    again = read_given(path, None, tokens=False, seed=3)
    other = read_given(path, None, tokens=False, seed=4)
    np.testing.assert_array_equal(again.held, found.held)
    assert not np.array_equal(other.held, found.held)
    assert found.worth_refitting


def test_few_probes_are_all_fitted_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((20, 2)))
    found = read_given(tmp_path / "few.npz", None, tokens=False, seed=0)
    assert found.held_out is None
    assert found.fitted is not None and len(found.fitted["x"]) == 20


def test_control_arrays_that_disagree_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", x=np.zeros((20, 2)), y=np.zeros((19, 2)))
    with pytest.raises(InputError, match="'y' has 19"):
        read_given(tmp_path / "odd.npz", None, tokens=False, seed=0)
