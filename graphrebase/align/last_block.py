"""The last block of a stream, refined for the logits wanted on the probes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.activations import Activations, Role
from graphrebase.align.body import FloatArray, Linear, MlpLayer, Read, Tower
from graphrebase.align.folding import required
from graphrebase.align.readout import Readout, Samples, SingleArray, refine, softmax
from graphrebase.align.recipe import FitOptions, Models, Updated
from graphrebase.align.record import Record

CHECKED = 64
"""Tokens at which a readout is compared with a model's own logits, at most."""
ELEMENTS = 1 << 25
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
        updated: Updated,
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
        readout = Readout.of(self.head, updated.read)
        return refine(readout, samples, change, gram, self.options.stay / size, self.options.steps)

    def _size(self, moved: FloatArray) -> float:
        """Return the mean square of the wanted move of the stream, per token."""
        total, count = 0.0, 0.0
        changes = self.record.read("change", self.layer.after, kept=False)
        weights = self.activations.weights(kept=False, last=True)
        for change, by_point in zip(changes, weights, strict=True):
            weight = by_point[self.layer.after]
            total += float(weight @ ((change @ moved.T) ** 2).sum(axis=1))
            count += float(weight.sum())
        return total / count if count else 0.0

    def _samples(self, updated: Updated, kept: bool, share: float) -> Samples:
        rows = list(self.activations.read_rows(self.layer.after, kept=kept))
        stride = self._stride(sum(map(len, rows)))
        parts = []
        batches = zip(
            rows,
            self.activations.updated(self.layer.writer.stem, updated, kept=kept),
            self.activations.weights(kept=kept, last=True),
            strict=True,
        )
        for row, (hidden, stream), by_point in batches:
            used, weights = row[::stride], by_point[self.layer.after]
            factor = (share if kept else 1.0) * len(row) / max(len(used), 1)
            inputs = with_ones(hidden[used]) if self.has_bias else hidden[used]
            parts.append((inputs, stream[used], weights[used] * factor))
        hidden, before, found = (np.concatenate(x) for x in zip(*parts, strict=True))
        return Samples(hidden, before, self._wanted(kept, [r[::stride] for r in rows]), found)

    def _stride(self, rows: int) -> int:
        """Return every how many tokens are used."""
        classes = len(required(self.models.target, self.head.weight))
        width = required(self.models.target, self.layer.down.weight).shape[1]
        elements: int = rows * max(classes, width)
        return max(1, math.ceil(elements / ELEMENTS))

    def _wanted(self, kept: bool, used: Sequence[NDArray[np.int64]]) -> SingleArray:
        """Return the probabilities wanted, (tokens, C): B's own on keep probes.

        Args:
            kept: which probes.
            used: tokens of every mini-batch.
        """
        own = self._logits("target", kept, used)
        if kept:
            return softmax(own)
        # one model after the other: a vocabulary's readout takes much memory
        wanted = self.options.releases * own
        wanted -= self.options.releases * self._logits("base", kept, used)
        wanted += self._logits("finetuned", kept, used)
        return softmax(_with_own(own, wanted, self.models.shared))

    def _logits(self, model: Role, kept: bool, used: Sequence[NDArray[np.int64]]) -> SingleArray:
        """Return a model's logits on its own last stream, (tokens, C)."""
        readout = Readout.of(self.head, readers(self.models)[model])
        streams = last_streams(self.record, self.layer.after, model, kept=kept)
        parts = [
            readout.logits(x[rows]).astype(np.float32)
            for x, rows in zip(streams, used, strict=True)
        ]
        return np.concatenate(parts)


def _with_own(
    own: SingleArray, wanted: SingleArray, shared: NDArray[np.bool_] | None
) -> SingleArray:
    """Return wanted logits (N, C); classes that only B has move with the mean of the others."""
    if shared is None or len(shared) != own.shape[1]:
        return wanted
    shift = (wanted - own)[:, shared].mean(axis=1, keepdims=True)
    return np.where(shared, wanted, own + shift)


def last_streams(record: Record, point: str, model: Role, *, kept: bool) -> Iterator[FloatArray]:
    """Yield, per mini-batch, the last stream of a model; on keep probes of B."""
    if model != "finetuned":
        yield from record.read(model, point, kept=kept)
        return
    both = (record.read(what, point, kept=kept) for what in ("base", "change"))
    for base, change in zip(*both, strict=True):
        yield base + change


def readers(models: Models) -> dict[Role, Read]:
    """Return the readers of the models by their names."""
    return {"base": models.base, "finetuned": models.finetuned, "target": models.target}


def shared_head(
    tower: Tower, models: Models, activations: Activations, record: Record
) -> Linear | None:
    """Return the head whose readout gives the logits of all three models, if there is one."""
    by_model = readers(models)
    for head in tower.heads:
        sizes = {None if x is None else len(x) for x in (r(head.weight) for r in by_model.values())}
        if head.axes[0] is None and None not in sizes and len(sizes) == 1:
            point = tower.points[-1]
            rows = next(activations.read_rows(point, kept=False))
            some = np.arange(min(len(rows), CHECKED))
            for name, read in by_model.items():
                stream = next(last_streams(record, point, name, kept=False))
                logits = activations.logits(name, point, some)
                if not Readout.of(head, read).agrees(stream[rows[some]], logits):
                    break
            else:
                return head
    return None


def with_ones(array: FloatArray) -> FloatArray:
    """Return an array (N, M) with a column of ones."""
    return np.concatenate([array, np.ones((len(array), 1))], axis=1)


def _joined(parts: Sequence[Samples]) -> Samples:
    names = ("hidden", "before", "wanted", "weights")
    return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
