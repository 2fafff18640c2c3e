"""The last block of a stream, refined for the logits wanted on the probes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.activations import Activations, Role
from graphrebase.align.body import FloatArray, Linear, MlpLayer, Read, Tower
from graphrebase.align.folding import required
from graphrebase.align.readout import Readout, Samples, log_softmax, refine
from graphrebase.align.recipe import FitOptions, Models
from graphrebase.align.record import Record

ELEMENTS = 1 << 27
"""Elements of one array that may be held in memory; beyond it tokens are left out, evenly."""


@dataclass(frozen=True, slots=True)
class LastBlock:
    """An MLP after which only a norm and a linear head come, and what it is fitted with.

    Attributes:
        head: the head, which all three models have.
        has_bias: the second layer has a bias.
    """

    head: Linear
    layer: MlpLayer
    models: Models
    activations: Activations
    record: Record
    options: FitOptions
    has_bias: bool

    def refined(
        self,
        change: FloatArray,
        gram: FloatArray,
        updated: Mapping[str, FloatArray],
        moved: FloatArray,
        share: float,
    ) -> FloatArray:
        """Return a better change of the second layer, (D, M), with a column for its bias.

        Args:
            change: the ridge solution of the stream.
            gram: its Gram matrix, ridge included.
            updated: B's changed roles so far.
            moved: the map F of the last point.
            share: weight of a keep probe.
        """
        size = self._size(moved)
        if size <= 0.0:
            return change
        sets = (False, True) if share else (False,)
        samples = _joined([self._samples(updated, kept, share) for kept in sets])
        readout = Readout.of(self.head, _changed(self.models.target, updated))
        return refine(readout, samples, change, gram, self.options.stay / size, self.options.steps)

    def _size(self, moved: FloatArray) -> float:
        """Return the mean square of the wanted move of the stream, per token."""
        total, count = 0.0, 0.0
        changes = self.record.read("change", self.layer.after, kept=False)
        weights = self.activations.weights(kept=False, last=True)
        for change, weight in zip(changes, weights, strict=True):
            total += float(weight @ ((change @ moved.T) ** 2).sum(axis=1))
            count += float(weight.sum())
        return total / count if count else 0.0

    def _samples(self, updated: Mapping[str, FloatArray], kept: bool, share: float) -> Samples:
        rows = list(self.activations.read_rows(kept=kept))
        stride = self._stride(sum(map(len, rows)))
        parts = []
        batches = zip(
            rows,
            self.activations.updated(self.layer.writer.stem, updated, kept=kept),
            self.activations.weights(kept=kept, last=True),
            self._wanted(kept, rows, stride),
            strict=True,
        )
        for row, (hidden, stream), weights, wanted in batches:
            used = row[::stride]
            factor = (share if kept else 1.0) * len(row) / max(len(used), 1)
            inputs = with_ones(hidden[used]) if self.has_bias else hidden[used]
            parts.append(Samples(inputs, stream[used], wanted, weights[used] * factor))
        return _joined(parts)

    def _stride(self, rows: int) -> int:
        """Return every how many tokens are used."""
        classes = len(required(self.models.target, self.head.weight))
        width = required(self.models.target, self.layer.down.weight).shape[1]
        elements: int = rows * max(classes, width)
        return max(1, math.ceil(elements / ELEMENTS))

    def _wanted(
        self, kept: bool, rows: Sequence[NDArray[np.int64]], stride: int
    ) -> Iterator[FloatArray]:
        """Yield, per mini-batch, the probabilities wanted: B's own on keep probes."""
        streams = last_streams(self.record, self.layer.after, kept=kept)
        target = Readout.of(self.head, self.models.target)
        base, tuned = (Readout.of(self.head, m) for m in (self.models.base, self.models.finetuned))
        for found, row in zip(streams, rows, strict=True):
            used = row[::stride]
            logits = target.logits(found["target"][used])
            if not kept:
                drift = logits - base.logits(found["base"][used])
                wanted = tuned.logits(found["finetuned"][used]) + self.options.releases * drift
                logits = _with_own(logits, wanted, self.models.shared)
            yield np.exp(log_softmax(logits))


def _with_own(own: FloatArray, wanted: FloatArray, shared: NDArray[np.bool_] | None) -> FloatArray:
    """Return wanted logits (N, C); classes that only B has move with the mean of the others."""
    if shared is None or len(shared) != own.shape[1]:
        return wanted
    shift = (wanted - own)[:, shared].mean(axis=1, keepdims=True)
    return np.where(shared, wanted, own + shift)


def last_streams(record: Record, point: str, *, kept: bool) -> Iterator[dict[Role, FloatArray]]:
    """Yield, per mini-batch, the last streams: of all models, on keep probes of B's."""
    if kept:
        for b in record.read("target", point, kept=True):
            yield {"target": b}
        return
    parts = (record.read(what, point, kept=False) for what in ("target", "base", "change"))
    for b, a, change in zip(*parts, strict=True):
        yield {"target": b, "base": a, "finetuned": a + change}


def shared_head(
    tower: Tower, models: Models, activations: Activations, record: Record
) -> Linear | None:
    """Return the head whose readout gives the logits of all three models, if there is one."""
    readers: dict[Role, Read] = {
        "base": models.base, "finetuned": models.finetuned, "target": models.target
    }  # fmt: skip
    for head in tower.heads:
        sizes = {None if x is None else len(x) for x in (r(head.weight) for r in readers.values())}
        if head.axes[0] is None and None not in sizes and len(sizes) == 1:
            rows = next(activations.read_rows(kept=False))
            streams = next(last_streams(record, tower.points[-1], kept=False))
            if all(
                Readout.of(head, read).agrees(streams[name][rows], activations.logits(name))
                for name, read in readers.items()
            ):
                return head
    return None


def with_ones(array: FloatArray) -> FloatArray:
    """Return an array (N, M) with a column of ones."""
    return np.concatenate([array, np.ones((len(array), 1))], axis=1)


def _changed(read: Read, updated: Mapping[str, FloatArray]) -> Read:
    def changed(role: str) -> FloatArray | None:
        return updated[role] if role in updated else read(role)

    return changed


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("hidden", "before", "wanted", "weights")
        )
    )
