"""Maps between streams: a rotated and scaled stream gives its rotation and its scale back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from graphrebase.align.anchored import Anchors
from graphrebase.align.body import Inputs, Tower
from graphrebase.align.streams import Comparison, map_streams

SIZE = 8
TOWER = Tower(("p",), (), Inputs((), (), (), ()), (), False)
NOTHING = Anchors(np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE)))


def compared(b: np.ndarray, a: np.ndarray, weights: np.ndarray, batch: int) -> Comparison:
    found = Comparison(np.zeros((b.shape[1], a.shape[1])))
    for start in range(0, len(a), batch):
        rows = slice(start, start + batch)
        found.add(b[rows], a[rows], weights[rows], centred=False)
    return found


@pytest.mark.parametrize("batch", [7, 500])
def test_a_rotation_and_a_size_are_found(batch: int) -> None:
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(SIZE, random_state=1)
    a = rng.standard_normal((500, SIZE)) * np.arange(1, SIZE + 1)
    found = map_streams(
        TOWER, {"p": compared(2.5 * a @ rotation.T, a, np.ones(500), batch)}, NOTHING, weight=1.0
    )["p"]
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-10)
    assert found.ratio == pytest.approx(2.5)
    assert found.correlation == pytest.approx(1.0)


def test_strangers_correlate_by_chance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4000, SIZE))
    found = map_streams(TOWER, {"p": compared(b, a, np.ones(4000), 500)}, NOTHING, weight=1.0)["p"]
    assert abs(found.correlation) < 0.1
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(SIZE), atol=1e-10)


def test_padding_does_not_count() -> None:
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(SIZE, random_state=1)
    a = rng.standard_normal((500, SIZE))
    b = a @ rotation.T
    b[::2] = rng.standard_normal((250, SIZE))
    weights = np.ones(500)
    weights[::2] = 0.0
    good, bad = (
        map_streams(TOWER, {"p": compared(b, a, w, 100)}, NOTHING, weight=1.0)["p"].correlation
        for w in (weights, np.ones(500))
    )
    assert good == pytest.approx(1.0)
    assert bad < 0.9
