"""The law of operator rules: permuting changes nothing, leaving one member out does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from soundness import permuted_weights, relative_change, run, with_weights

from graphrebase.graph import build_graph
from graphrebase.io import read_model
from graphrebase.symmetry import Symmetry, find_symmetry

Feeds = Sequence[Mapping[str, np.ndarray]]
Members = set[tuple[str, int]]


def symmetry_of(path: Path) -> Symmetry:
    return find_symmetry(build_graph(read_model(path)))


def members(symmetry: Symmetry) -> list[Members]:
    """Return (tensor, axis) of the members of every group."""
    return [{(m.tensor, m.axis) for m in g.members} for g in symmetry.groups]


def assert_permutes(path: Path, feeds: Feeds, left_out: str) -> Symmetry:
    """Permute every group: nothing changes, unless the constant ``left_out`` stays behind."""
    symmetry = symmetry_of(path)
    assert symmetry.groups
    model, moved = onnx.load(path), permuted_weights(symmetry, seed=1)
    kept = {name: array for name, array in moved.items() if name != left_out}
    for feed in feeds:
        before = run(model, feed)
        assert relative_change(before, run(with_weights(model, moved), feed)) < 1e-4
        assert relative_change(before, run(with_weights(model, kept), feed)) > 1e-2
    return symmetry
