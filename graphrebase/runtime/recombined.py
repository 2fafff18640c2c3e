"""More texts out of few: the end of one and then the beginning of another, in the place of the one.

A fit under a new head learns as much about A_ft as it has texts to ask it about, and any text will
do that is like those of the task. What has a function stays where it is: tokens that begin or end
every text, columns that are the same in all, padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.runtime.batches import sample_count, taken

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Recombination:
    """How texts are made out of others.

    Attributes:
        tokens: the input that holds tokens, (samples, length).
        total: samples wanted, those that were there included.
        room: tokens that they may have together, padding included; None for any number.
        seed: of everything random.
    """

    tokens: str
    total: int
    room: int | None = None
    seed: int = 0

    def extended(self, inputs: Arrays) -> Arrays:
        """Return texts with new ones after them; the same where there is nothing to combine.

        Args:
            inputs: axis 0 the samples; masks and all else of a new text are its template's.
        """
        count, ids = sample_count(inputs), inputs[self.tokens]
        if not ids.size:
            return inputs
        total = self.total if self.room is None else min(self.total, self.room // ids.shape[1])
        more = total - count
        if more <= 0 or count < 2:
            return inputs
        free = _free(ids, _real(ids, inputs))
        if not free.any():
            return inputs
        rng = np.random.default_rng(self.seed)
        templates = np.resize(rng.permutation(count), more)
        others = (templates + rng.integers(1, count, more)) % count
        made = ids[templates].copy()
        for row, template, other in zip(made, templates, others, strict=True):
            first, second = ids[template][free[template]], ids[other][free[other]]
            if len(first) and len(second):
                cut = rng.integers(1, max(len(first), 2))
                row[free[template]] = np.resize(np.concatenate([first[cut:], second]), len(first))
        new = {**taken(inputs, templates), self.tokens: made}
        return {
            name: np.concatenate([array, new[name]]) if array.ndim else array
            for name, array in inputs.items()
        }


def _real(ids: np.ndarray, inputs: Arrays) -> NDArray[np.bool_]:
    """Return which tokens are no padding, (samples, length): by the mask, else by their look."""
    masks = [
        array != 0
        for name, array in inputs.items()
        if "attention" in name.lower() and "mask" in name.lower() and array.shape == ids.shape
        if "global" not in name.lower()
    ]
    if masks:
        return np.asarray(np.logical_and.reduce(masks))
    return _unrepeated(ids) & _unrepeated(ids[:, ::-1])[:, ::-1]


def _unrepeated(ids: np.ndarray) -> NDArray[np.bool_]:
    """Return which tokens are not of what ends the most texts, where that is repeated there."""
    values, counts = np.unique(ids[:, -1], return_counts=True)
    same = ids[:, ::-1] == values[counts.argmax()]
    run = np.logical_and.accumulate(same, axis=1)[:, ::-1]
    repeated = bool((run.sum(axis=1) > 1).any()) and not run.all()
    return ~run if repeated else np.ones(ids.shape, bool)


def _free(ids: np.ndarray, real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which tokens may be others, (samples, length)."""
    free: NDArray[np.bool_] = real & ~(ids == ids[:1]).all(axis=0)
    rows = np.arange(len(ids))
    ends = real.argmax(axis=1), real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    for places in ends:
        found = ids[rows, places]
        if (found == found[0]).all():
            free &= ids != found[0]
    return free
