"""Activations that tell how far a fit is: every block run on a mini-batch is a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.activations import Activations, Role
from graphrebase.align.body import FloatArray
from graphrebase.progress import Progress

#: Models that run in full on the probes and on the keep probes; after that B runs part by part.
_FULL = {False: 3, True: 2}
_PART = 2
"""Blocks that run for one layer: what was changed below is not run again."""
STAGE = "fitting"


class Watched:
    """Implements `Activations` by another, counting the blocks that it runs."""

    def __init__(
        self, source: Activations, batches: Mapping[bool, int], layers: int, progress: Progress
    ) -> None:
        """Watch a source.

        Args:
            source: gives the activations.
            batches: mini-batches of the probes (False) and of the keep probes (True).
            layers: layers to fit; the last is run once more.
            progress: told after every mini-batch.
        """
        self._source = source
        self._progress = progress
        self._layers = layers
        parts = _PART * (layers + 1)
        self._steps = sum(n * (_FULL[kept] * layers + parts) for kept, n in batches.items())
        self._done = 0

    def streams(self, model: Role, *, kept: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield the residual stream at every point."""
        for found in self._source.streams(model, kept=kept):
            self._step(self._layers)
            yield found

    def release(self) -> None:
        """Give back what only streams need."""
        self._source.release()

    def updated(
        self, layer: str, changes: Mapping[str, FloatArray], *, kept: bool
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield the input of a layer's last map and the stream after it."""
        for found in self._source.updated(layer, changes, kept=kept):
            self._step(_PART)
            yield found

    def weights(self, *, kept: bool, last: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield the weight of every token by point."""
        return self._source.weights(kept=kept, last=last)

    def read_rows(self, point: str, *, kept: bool) -> Iterator[NDArray[np.int64]]:
        """Yield which tokens a head reads."""
        return self._source.read_rows(point, kept=kept)

    def logits(self, model: Role, point: str, rows: NDArray[np.int64]) -> FloatArray | None:
        """Return the logits of the first mini-batch at some of the rows read."""
        return self._source.logits(model, point, rows)

    def finish(self) -> None:
        """Tell that all is done."""
        self._step(self._steps)

    def _step(self, blocks: int) -> None:
        self._done = min(self._done + blocks, self._steps)
        self._progress(STAGE, self._done, self._steps)
