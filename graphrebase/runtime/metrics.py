"""The metrics: what is summed over batches, and what the sums mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

CLASSES, TOKENS, NUMBERS = "classes", "tokens", "numbers"
TOP = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        title: for tables.
        rises: whether more is better.
        share: whether it is a share, shown in per cent.
        kinds: kinds of labels that it is for; of these it is shown unasked for those in `shown`.
        shown: see `kinds`.
        recovers: whether the share of a gain that is recovered is told in it.
    """

    title: str
    rises: bool
    share: bool
    kinds: frozenset[str]
    shown: frozenset[str]
    recovers: bool


def _metric(
    title: str, *, rises: bool, share: bool, kinds: str, shown: str = "", recovers: bool = False
) -> Metric:
    return Metric(title, rises, share, frozenset(kinds.split()), frozenset(shown.split()), recovers)


_SCORED = f"{CLASSES} {TOKENS}"
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "cross-entropy": _metric(
            "loss", rises=False, share=False, kinds=_SCORED, shown=_SCORED, recovers=True
        ),
        "accuracy": _metric(
            "accuracy", rises=True, share=True, kinds=_SCORED, shown=_SCORED, recovers=True
        ),
        "perplexity": _metric("perplexity", rises=False, share=False, kinds=_SCORED, shown=TOKENS),
        "top-5": _metric("top-5 accuracy", rises=True, share=True, kinds=_SCORED),
        "f1-macro": _metric("macro F1", rises=True, share=True, kinds=_SCORED),
        "mean-squared-error": _metric(
            "squared error", rises=False, share=False, kinds=NUMBERS, shown=NUMBERS, recovers=True
        ),
        "mean-absolute-error": _metric(
            "absolute error", rises=False, share=False, kinds=NUMBERS, shown=NUMBERS
        ),
    }
)
"""Every metric by the name that the command line knows."""


class ClassSums:
    """Sums over scored labels of a classifier or language model."""

    def __init__(self, classes: int) -> None:
        """Start at nothing.

        Args:
            classes: number of classes.
        """
        self.scored = 0
        self._loss = 0.0
        self._hits = self._top = 0
        self._labels, self._predicted, self._correct = np.zeros((3, classes), np.int64)

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count logits (n, classes) and labels (n,)."""
        logits, classes = logits.astype(np.float64), logits.shape[-1]
        peak = logits.max(axis=-1)
        own = logits[np.arange(labels.size), labels]
        with np.errstate(invalid="ignore"):  # what is not finite is reported at the end
            total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=-1))
            self._loss += float((total - own).sum())
        chosen = logits.argmax(axis=-1)
        right = chosen == labels
        self._hits += int(right.sum())
        self._top += int(((logits > own[:, None]).sum(axis=-1) < TOP).sum())
        for table, values in (
            (self._labels, labels),
            (self._predicted, chosen),
            (self._correct, labels[right]),
        ):
            table += np.bincount(values, minlength=classes)
        self.scored += labels.size

    def means(self) -> dict[str, float]:
        """Return every metric; F1 is the mean over classes that occur or are predicted."""
        n = self.scored
        loss = self._loss / n
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(loss))
        occurs = self._labels + self._predicted
        f1 = 2 * self._correct[occurs > 0] / occurs[occurs > 0]
        return {
            "cross-entropy": loss,
            "accuracy": self._hits / n,
            "perplexity": perplexity,
            "top-5": self._top / n,
            "f1-macro": float(f1.mean()),
        }


class NumberSums:
    """Sums over the numbers that a regression gives."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.scored = 0
        self._squared = self._absolute = 0.0

    def add(self, found: np.ndarray, labels: np.ndarray) -> None:
        """Count predictions and labels of one shape."""
        error = found.astype(np.float64) - labels.astype(np.float64)
        self._squared += float((error**2).sum())
        self._absolute += float(np.abs(error).sum())
        self.scored += labels.size

    def means(self) -> dict[str, float]:
        """Return every metric."""
        return {
            "mean-squared-error": self._squared / self.scored,
            "mean-absolute-error": self._absolute / self.scored,
        }
