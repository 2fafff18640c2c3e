"""What a fit looks at: given inputs, and generated sequences beside few of them."""

from __future__ import annotations

import numpy as np

from graphrebase.align.recipe import FitOptions
from graphrebase.rebase.fitting import Probing
from graphrebase.runtime.recombined import Recombination

GIVEN = {"ids": np.arange(6).reshape(2, 3)}


def probing(beside: dict[str, np.ndarray] | None) -> Probing:
    return Probing(GIVEN, GIVEN, FitOptions(), beside=beside)


def test_generated_sequences_come_after_the_given_ones() -> None:
    made = {"ids": np.full((1, 3), 9, np.int32), "mask": np.ones((1, 3), np.int64)}
    found = probing(made).on(GIVEN).task
    assert set(found) == {"ids"} and found["ids"].dtype == GIVEN["ids"].dtype
    assert found["ids"].tolist() == [[0, 1, 2], [3, 4, 5], [9, 9, 9]]


def test_sequences_of_another_length_are_left_out() -> None:
    assert probing({"ids": np.zeros((1, 4), np.int64)}).on(GIVEN).task is GIVEN


def test_control_without_given_inputs_nothing_changes() -> None:
    same = probing({"ids": np.zeros((1, 3), np.int64)})
    assert same.on(None) is same


def test_texts_under_a_new_head_are_recombined_and_counted() -> None:
    more = Probing(GIVEN, {}, FitOptions(), recombination=Recombination("ids", 5)).on(GIVEN)
    assert more.recombined == 3 and more.added == 0
    assert len(more.task["ids"]) == 5 and (more.task["ids"][:2] == GIVEN["ids"]).all()
