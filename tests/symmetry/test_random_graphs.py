"""Law: whatever the graph, permuting it by its own groups leaves its outputs alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import draw_graph
from soundness import violation

T = TypeVar("T")

#: A right permutation of float64 weights changes outputs by about 1e-15 of their scale.
EXACT = 1e-9
CONTROLS = 60


class Chance:
    """Picks by a seed."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def __call__(self, options: Sequence[T], /) -> T:
        return self.source.choice(list(options))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_groups_of_random_graphs_are_sound(data: st.DataObject) -> None:
    model = draw_graph(lambda options: data.draw(st.sampled_from(list(options))))
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(model, path)
        assert violation(path).error < EXACT


def test_control_a_weight_left_behind_is_noticed(tmp_path: Path) -> None:
    """Mostly: a key bias or a maximum hides one, a permutation may be the identity."""
    noticed = total = 0
    for seed in range(CONTROLS):
        path = tmp_path / f"{seed}.onnx"
        onnx.save(draw_graph(Chance(seed)), path)
        if violation(path, seed).groups:
            total += 1
            noticed += violation(path, seed, leave_out=True).error > EXACT
    assert total > CONTROLS / 2
    assert noticed > 0.8 * total
