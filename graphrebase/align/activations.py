"""What `fit` needs to see of running models; it does not know what runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.body import FloatArray

Role = Literal["base", "finetuned", "target"]


class Activations(Protocol):
    """Hidden states of three models on probes (`kept` False) and on keep probes (True).

    Mini-batches always come in the same order, and tokens inside them.
    """

    def streams(self, model: Role, *, kept: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield, per mini-batch, the residual stream at every point, (tokens, D)."""
        ...

    def release(self) -> None:
        """Give back what only streams need; they are not asked for again."""
        ...

    def updated(
        self, layer: str, changes: Mapping[str, FloatArray], *, kept: bool
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield what one layer of B does with some of B's roles changed.

        Layers are asked for in their order: what was changed below a layer stays as it is.

        Args:
            layer: stem of the map by which it writes to the stream.
            changes: new arrays by role.
            kept: which probes.

        Yields:
            The input of that map, (tokens, M), and the stream after it, (tokens, D).
        """
        ...

    def weights(self, *, kept: bool, last: bool) -> Iterator[Mapping[str, FloatArray]]:
        """Yield, per mini-batch, the weight of every token by point, (tokens,); 0 for padding.

        Streams of one model may have tokens of their own: those of encoder and decoder, or of the
        stages of a hierarchical model.

        Args:
            kept: which probes.
            last: where tokens do not look at one another any more, so that those which no head
                reads count less.
        """
        ...

    def read_rows(self, point: str, *, kept: bool) -> Iterator[NDArray[np.int64]]:
        """Yield which tokens of a mini-batch a head reads at a point; all if it reads every one."""
        ...

    def logits(self, model: Role, point: str, rows: NDArray[np.int64]) -> FloatArray | None:
        """Return the logits of the first mini-batch at some of the rows read.

        Args:
            model: which.
            point: the last point of the stream that the head reads.
            rows: places among the rows that a head reads.

        Returns:
            (rows, C); None if there are no logits, or not as many rows as are read.
        """
        ...
