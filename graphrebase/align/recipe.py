"""What a fit is given: its options, and the roles of the three models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.body import Read


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
    """

    ridge: float = 0.03
    keep: float = 0.3
    evidence: float = 1.0
    steps: int = 5
    stay: float = 1.0
    releases: float = 0.5
    attention: bool = False


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
