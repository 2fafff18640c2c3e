"""Texts made out of others keep what has a function, and hold nothing that was not there."""

from __future__ import annotations

import numpy as np
import pytest

from graphrebase.runtime.recombined import Recombination

BEGIN, END, PAD = 101, 102, 0


def padded_texts(lengths: tuple[int, ...] = (5, 8, 3, 8)) -> dict[str, np.ndarray]:
    """Return texts of their own tokens each, 10 n + place, padded to 10."""
    ids = np.full((len(lengths), 10), PAD)
    for row, length in enumerate(lengths):
        ids[row, : length + 2] = [BEGIN, *(10 * (row + 1) + np.arange(length)), END]
    return {"input_ids": ids, "attention_mask": (ids != PAD).astype(np.int64)}


def test_the_given_texts_come_first_and_as_they_were() -> None:
    given = padded_texts()
    found = Recombination("input_ids", 50).extended(given)
    assert all(len(array) == 50 for array in found.values())
    assert all((found[name][:4] == array).all() for name, array in given.items())


def test_ends_and_padding_stay_where_their_template_has_them() -> None:
    given = padded_texts()
    found = Recombination("input_ids", 50).extended(given)
    for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True):
        count = int(mask.sum())
        assert ids[0] == BEGIN and ids[count - 1] == END and (ids[count:] == PAD).all()
        assert not {BEGIN, END, PAD} & set(ids[1 : count - 1])


def test_a_new_text_is_the_end_of_one_and_the_beginning_of_another() -> None:
    found = Recombination("input_ids", 200).extended(padded_texts())
    mixed = 0
    for ids, mask in zip(found["input_ids"][4:], found["attention_mask"][4:], strict=True):
        inner = ids[1 : int(mask.sum()) - 1]
        assert set(np.diff(inner)[np.diff(inner // 10) == 0]) <= {1}  # each source in its order
        mixed += len(set(inner // 10)) > 1
    assert mixed > 100


def test_columns_that_are_the_same_in_all_texts_stay() -> None:
    ids = np.arange(40).reshape(4, 10)
    ids[:, 3:5] = 77
    found = Recombination("tokens", 30).extended({"tokens": ids})["tokens"]
    assert (found[:, 3:5] == 77).all() and (found[4:, :3] != 77).all()


@pytest.mark.parametrize(("room", "rows"), [(600, 50), (499, 49), (10, 4)])
def test_long_texts_are_fewer(room: int, rows: int) -> None:
    found = Recombination("input_ids", 50, room).extended(padded_texts())
    assert len(found["input_ids"]) == rows


@pytest.mark.parametrize(("rows", "total"), [(4, 4), (4, 0), (1, 9)])
def test_nothing_is_made_of_a_single_text_or_where_there_are_enough(rows: int, total: int) -> None:
    given = {"tokens": np.arange(10 * rows).reshape(rows, 10)}
    assert Recombination("tokens", total).extended(given) is given


def test_without_a_mask_padding_is_what_ends_texts_again_and_again() -> None:
    masked = padded_texts()
    found = Recombination("input_ids", 50).extended({"input_ids": masked["input_ids"]})
    assert (
        found["input_ids"] == Recombination("input_ids", 50).extended(masked)["input_ids"]
    ).all()


@pytest.mark.parametrize("name", ["global_attention_mask", "key_padding_mask"])
def test_other_masks_do_not_say_what_is_padding(name: str) -> None:
    masked = padded_texts()
    other = {"input_ids": masked["input_ids"], name: np.eye(4, 10, dtype=np.int64)}
    found = Recombination("input_ids", 50).extended(other)
    assert (
        found["input_ids"] == Recombination("input_ids", 50).extended(masked)["input_ids"]
    ).all()


@pytest.mark.parametrize("shape", [(2, 4), (2, 0)])
def test_of_texts_that_are_all_the_same_nothing_is_made(shape: tuple[int, int]) -> None:
    given = {"tokens": np.ones(shape, np.int64)}
    assert Recombination("tokens", 5).extended(given) is given


def test_no_new_text_is_the_copy_of_one() -> None:
    found = Recombination("tokens", 60).extended({"tokens": np.arange(40).reshape(4, 10)})["tokens"]
    assert not any((row == found[:4]).all(axis=1).any() for row in found[4:])


def test_the_seed_decides() -> None:
    one, same, other = (
        Recombination("input_ids", 60, seed=seed).extended(padded_texts())["input_ids"]
        for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()


def test_scalars_hold_for_all() -> None:
    given = {"tokens": np.arange(20).reshape(2, 10), "scale": np.array(2.0)}
    assert Recombination("tokens", 6).extended(given)["scale"] == 2.0
