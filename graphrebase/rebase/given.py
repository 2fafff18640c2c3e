"""The user's unlabelled inputs, and the part of them that is held out to judge the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphrebase.errors import InputError
from graphrebase.runtime import load_npz, split_labels
from graphrebase.runtime.batches import sample_count, taken
from graphrebase.runtime.text_probes import SEQUENCES

HELD_OUT = 0.2
"""Share of the probes that is held out."""
PARTS = 8
"""Parts of few samples that are held out in turn where fits are cheap: what a fit from fewer probes
lacks is taken for a lack of the result."""
LEAST = 16
"""Held-out samples below which nothing is said."""
LEAST_SEQUENCES = 4
"""The same, where a sample has many tokens that are scored."""
MOST = 256
"""Held-out samples beyond which the score gains nothing."""
LARGEST_SHARE = 1 / 3
JUDGED_ON = 256
"""Held-out samples up to which parts are held out in turn: a score from 50 samples of a classifier
is by chance off by a tenth."""
JUDGED_ON_SEQUENCES = 16
"""The same, where a sample has many tokens that are scored."""
CHEAP = 1e9
"""Weights times samples up to which a fit is made several times: to judge it, and on all probes.

By its arithmetic, so that no clock decides."""
ENOUGH = 200
"""Given sequences from which on generated ones beside them add nothing to a fit."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs that the user brought.

    Attributes:
        probes: unlabelled inputs of the task; None if there are none.
        keep: inputs of B's own domain; None if there are none.
        folds: samples of the probes to hold out, one part after the other; none if too few.
        least: number of probes that can be judged on at all.
    """

    probes: Arrays | None
    keep: Arrays | None
    folds: tuple[np.ndarray, ...]
    least: int

    def fitted(self, fold: int = 0) -> Arrays | None:
        """Return the probes without those of a fold; all where there are no folds."""
        if self.probes is None or not self.folds:
            return self.probes
        rest = np.ones(samples(self.probes), bool)
        rest[self.folds[fold]] = False
        return taken(self.probes, rest)

    def held_out(self, fold: int = 0) -> Arrays | None:
        """Return the probes of a fold; None where there are no folds."""
        if self.probes is None or not self.folds:
            return None
        return taken(self.probes, self.folds[fold])

    def unseen(self) -> Arrays | None:
        """Return probes to judge a result that was fitted on none; None if too few."""
        if self.probes is None or samples(self.probes) < self.least:
            return None
        return taken(self.probes, slice(MOST))


def read_given(
    probes: Path | None,
    keep: Path | None,
    *,
    tokens: bool,
    seed: int,
    weights: int = 0,
    texts: int = 0,
) -> Given:
    """Return the inputs of two npz files, some probes drawn to be held out.

    Args:
        probes: npz of the task's inputs, or None.
        keep: npz of inputs of B's own domain, or None.
        tokens: whether every token of a sample is scored, so that fewer samples are enough.
        seed: of the draw.
        weights: of the model to fit, from many of which on it is fitted once.
        texts: samples that the probes become by recombination; 0 where they do not.

    Raises:
        InputError: a file cannot be read, or its arrays differ in their number of samples.
    """
    found, kept = (None if path is None else _unlabelled(path) for path in (probes, keep))
    folds: tuple[np.ndarray, ...] = ()
    if found is not None:
        sizes = _parts(samples(found), tokens=tokens, weights=weights, texts=texts)
        order = np.random.default_rng(seed).permutation(samples(found))
        folds = tuple(np.sort(part) for part in np.split(order, np.cumsum(sizes))[:-1])
    return Given(found, kept, folds, LEAST_SEQUENCES if tokens else LEAST)


def _parts(count: int, *, tokens: bool, weights: int, texts: int) -> list[int]:
    """Return the sizes of the parts to judge by: one, or several that make up for its chance."""
    size = held_out(count, tokens=tokens)
    fitted = max(count, texts // 2) + (2 * SEQUENCES if tokens else 0)  # half an image's work
    if not size or weights * fitted > CHEAP:
        return [size] if size else []
    if not tokens:
        size = min(size, max(count // PARTS, 1))
    wanted = JUDGED_ON_SEQUENCES if tokens else JUDGED_ON
    return [size] * min(-(-wanted // size), count // size)


def held_out(samples: int, *, tokens: bool) -> int:
    """Return how many of some probes to hold out; 0 where they are too few to spare any."""
    wanted = max(round(HELD_OUT * samples), LEAST_SEQUENCES if tokens else LEAST)
    return min(wanted, MOST) if wanted <= LARGEST_SHARE * samples else 0


def least_probes(held: int) -> int:
    """Return the number of probes from which on so many of them can be held out."""
    return int(np.ceil(held / LARGEST_SHARE))


def _unlabelled(path: Path) -> Arrays:
    arrays = split_labels(load_npz(path))[0]
    sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        listed = ", ".join(f"'{name}' has {size}" for name, size in sizes.items())
        raise InputError(
            f"the numbers of samples disagree: {listed or 'there are no inputs'}",
            where=str(path),
            hint="one array per input, axis 0 the samples",
        )
    return _distinct(arrays)


def _distinct(arrays: Arrays) -> Arrays:
    """Return every sample once: a result must not be judged by what it was fitted on."""
    seen: dict[bytes, int] = {}
    for row in range(samples(arrays)):
        content = hashlib.sha256()
        for array in arrays.values():
            content.update(array[row].tobytes() if array.ndim else b"")
        seen.setdefault(content.digest(), row)
    if len(seen) == samples(arrays):
        return arrays
    return taken(arrays, np.array(list(seen.values())))


def samples(arrays: Arrays) -> int:
    """Return the number of samples, 0 of no arrays."""
    return sample_count(arrays)
