"""The user's unlabelled inputs, and the part of them that is held out to judge the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphrebase.errors import InputError
from graphrebase.runtime import load_npz, split_labels

HELD_OUT = 0.2
"""Share of the probes that is held out."""
LEAST = 16
"""Held-out samples below which nothing is said."""
LEAST_SEQUENCES = 4
"""The same, where a sample has many tokens that are scored."""
MOST = 256
"""Held-out samples beyond which the score gains nothing."""
LARGEST_SHARE = 1 / 3
ENOUGH = 200
"""Probes from which on those that were held out add nothing to a fit."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Given:
    """Inputs that the user brought.

    Attributes:
        probes: unlabelled inputs of the task; None if there are none.
        keep: inputs of B's own domain; None if there are none.
        held: the samples of the probes that are held out, (n,); empty if too few.
    """

    probes: Arrays | None
    keep: Arrays | None
    held: np.ndarray

    @property
    def fitted(self) -> Arrays | None:
        """Probes that are not held out."""
        if self.probes is None:
            return None
        rest = np.ones(samples(self.probes), bool)
        rest[self.held] = False
        return {name: array[rest] for name, array in self.probes.items()}

    @property
    def held_out(self) -> Arrays | None:
        """Probes that are held out; None if there are none."""
        if self.probes is None or not len(self.held):
            return None
        return {name: array[self.held] for name, array in self.probes.items()}

    @property
    def held_count(self) -> int:
        """Number of probes that are held out."""
        return len(self.held)

    @property
    def worth_refitting(self) -> bool:
        """Whether a fit gains from the probes that were held out."""
        return self.probes is not None and samples(self.probes) - len(self.held) < ENOUGH


def read_given(probes: Path | None, keep: Path | None, *, tokens: bool, seed: int) -> Given:
    """Return the inputs of two npz files, some probes drawn to be held out.

    Args:
        probes: npz of the task's inputs, or None.
        keep: npz of inputs of B's own domain, or None.
        tokens: whether every token of a sample is scored, so that fewer samples are enough.
        seed: of the draw.

    Raises:
        InputError: a file cannot be read, or its arrays differ in their number of samples.
    """
    found, kept = (None if path is None else _unlabelled(path) for path in (probes, keep))
    held = np.arange(0)
    if found is not None:
        count = held_out(samples(found), tokens=tokens)
        held = np.sort(np.random.default_rng(seed).permutation(samples(found))[:count])
    return Given(found, kept, held)


def held_out(samples: int, *, tokens: bool) -> int:
    """Return how many of some probes to hold out; 0 where they are too few to spare any."""
    wanted = max(round(HELD_OUT * samples), LEAST_SEQUENCES if tokens else LEAST)
    return min(wanted, MOST) if wanted <= LARGEST_SHARE * samples else 0


def least_probes(*, tokens: bool) -> int:
    """Return the number of probes from which on some are held out."""
    return int(np.ceil((LEAST_SEQUENCES if tokens else LEAST) / LARGEST_SHARE))


def _unlabelled(path: Path) -> Arrays:
    arrays = split_labels(load_npz(path))[0]
    sizes = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        listed = ", ".join(f"'{name}' has {size}" for name, size in sizes.items())
        raise InputError(
            f"the numbers of samples disagree: {listed or 'there are no inputs'}",
            where=str(path),
            hint="one array per input, axis 0 the samples",
        )
    return arrays


def samples(arrays: Arrays) -> int:
    """Return the number of samples."""
    return len(next(iter(arrays.values())))
