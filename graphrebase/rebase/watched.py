"""Activations that tell how far a fit is: every mini-batch of every pass is a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from graphrebase.align.activations import Activations, Role
from graphrebase.align.body import FloatArray
from graphrebase.progress import Progress

#: Passes of a fit over all probes: the streams of A and B are compared, then B's goals are made
#: of three models on the probes and of B alone on the keep probes. Then one per MLP.
_PASSES = {False: 5, True: 3}
STAGE = "fitting"


class Watched:
    """Implements `Activations` by another, counting what it yields."""

    def __init__(
        self, source: Activations, batches: Mapping[bool, int], layers: int, progress: Progress
    ) -> None:
        """Watch a source.

        Args:
            source: gives the activations.
            batches: mini-batches of the probes (False) and of the keep probes (True).
            layers: MLPs to fit.
            progress: told after every mini-batch.
        """
        self._source = source
        self._progress = progress
        self._steps = sum(count * (_PASSES[kept] + layers) for kept, count in batches.items())
        self._done = 0

    def streams(self, model: Role, *, kept: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield the residual stream at every point."""
        for found in self._source.streams(model, kept=kept):
            yield found
            self._step()

    def updated(
        self, layer: str, changes: Mapping[str, FloatArray], *, kept: bool
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield the input of an MLP's second layer and the stream after it."""
        for found in self._source.updated(layer, changes, kept=kept):
            yield found
            self._step()

    def weights(self, *, kept: bool, last: bool) -> Iterator[np.ndarray]:
        """Yield the weight of every token."""
        return self._source.weights(kept=kept, last=last)

    def _step(self) -> None:
        self._done = min(self._done + 1, self._steps)
        self._progress(STAGE, self._done, self._steps)
