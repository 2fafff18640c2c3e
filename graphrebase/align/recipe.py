"""What a fit is given: its options, and the roles of the three models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.body import FloatArray, Read
from graphrebase.align.folding import required


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit (measured defaults).

    Attributes:
        ridge: regularisation as a share of the mean diagonal of the Gram matrix.
        keep: weight of all keep probes together, as a share of the others'.
        evidence: weight of activations beside the anchors in the maps between streams.
        steps: Newton steps of the last block; 0 for none.
        stay: weight there of the stream's fit: a stream that does not move at all costs
            half a nat per token, times this.
        releases: share of what changes between the releases, B - A, in the wanted logits
            A_ft + releases * (B - A).
        attention: whether the output maps of attention are solved too.
        looks: factor on the moved task vector that queries and keys get; 0: they stay B's.
    """

    ridge: float = 0.03
    keep: float = 0.3
    evidence: float = 1.0
    steps: int = 5
    stay: float = 1.0
    releases: float = 0.25
    attention: bool = False
    looks: float = 0.0


@dataclass(frozen=True, slots=True)
class Models:
    """The roles of the three models.

    Attributes:
        shared: which classes of B the others have too, (C,); None for all.
    """

    base: Read
    finetuned: Read
    target: Read
    shared: NDArray[np.bool_] | None = None


class Updated(Mapping[str, FloatArray]):
    """B's changed roles as they are now, summed when asked for: only the changes are held."""

    def __init__(self, target: Read, changes: Mapping[str, FloatArray]) -> None:
        """Take B and what to add to its roles."""
        self._target, self._changes = target, changes

    def __getitem__(self, role: str) -> FloatArray:
        change = self._changes[role]
        return required(self._target, role) + change

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def read(self, role: str) -> FloatArray | None:
        """Return a role of B, changed or not; None where B lacks it."""
        return self[role] if role in self._changes else self._target(role)
