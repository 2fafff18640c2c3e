"""Metrics of a model with logits on labelled data, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime.data import LABEL, load_npz, model_inputs
from graphrebase.runtime.session import Array, Session

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
IGNORED: Final = -100
"""Label of a sample or token that does not count."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one model on one data set.

    Attributes:
        values: mean over the labels that count, by metric.
        samples: number of samples.
        labels: number of labels that count.
        output: name of the output that was read as logits.
    """

    values: Mapping[str, float]
    samples: int
    labels: int
    output: str


def _cross_entropy(logits: FloatArray, labels: IntArray) -> float:
    highest = logits.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return float((total - logits[np.arange(len(labels)), labels]).sum())


def _accuracy(logits: FloatArray, labels: IntArray) -> float:
    return float((logits.argmax(axis=1) == labels).sum())


METRICS: Final[dict[str, Callable[[FloatArray, IntArray], float]]] = {
    "cross-entropy": _cross_entropy,
    "accuracy": _accuracy,
}
"""Metric to the function that sums it over logits (n, classes) and labels (n,)."""


def evaluate(
    model: Session | Path | str | bytes,
    data: Mapping[str, Array] | Path | str,
    metric: str | Sequence[str] = ("cross-entropy", "accuracy"),
    *,
    output: str | None = None,
    batch: int = 64,
) -> Evaluation:
    """Return metrics of a model's logits, all from one pass over the data.

    Args:
        model: a session, or a model to open.
        data: arrays by input name and the labels under `label`, or an npz file of them. Labels
            are (N,) for logits (N, C) and (N, S) for logits (N, S, C); -100 does not count. A
            language model's labels are not shifted: ``label[n, s]`` is the token expected at s.
            Arrays that are no input of the model are left alone.
        metric: one or more of ``METRICS``.
        output: name of the logits; by default `logits`, else the only output.
        batch: samples per run where the graph does not fix it.

    Raises:
        UsageError: unknown metric; the output is not clear.
        InputError: the data does not fit the model.
        VerificationError: the logits are not finite, or onnxruntime fails.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}", hint=f"one of {', '.join(METRICS)}")
    if batch < 1:
        raise UsageError("the batch must be at least 1")
    where = None if isinstance(data, Mapping) else str(data)
    arrays = data if isinstance(data, Mapping) else load_npz(data)
    session = model if isinstance(model, Session) else Session(model)
    chosen = _output(session, output)
    inputs = model_inputs(arrays, session.input_signature, where)
    samples = len(next(iter(inputs.values()), ()))
    labels = _labels(arrays, samples, where)
    totals, counted = dict.fromkeys(metrics, 0.0), 0
    for logits, expected in _batches(session, inputs, labels, chosen, batch):
        flat, wanted = _counted(logits, expected, chosen, where)
        counted += len(wanted)
        for name in metrics:
            totals[name] += METRICS[name](flat, wanted) if len(wanted) else 0.0
    if not counted:
        raise InputError("no label counts: all are -100", where=where)
    means = {name: total / counted for name, total in totals.items()}
    return Evaluation(means, samples, counted, chosen)


def _output(session: Session, wanted: str | None) -> str:
    names = session.output_names
    if wanted is None and "logits" in names:
        return "logits"
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    raise UsageError(
        "which output holds the logits?" if wanted is None else f"there is no output {wanted!r}",
        where=session.name,
        hint=f"name one of {', '.join(names)}",
    )


def _labels(data: Mapping[str, Array], samples: int, where: str | None) -> IntArray:
    if LABEL not in data:
        raise InputError(
            "the data has no labels", where=where, hint=f"store them in the array {LABEL!r}"
        )
    labels = np.asarray(data[LABEL])
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype}, not integers",
            where=where,
            hint="a label is the index of a class",
        )
    if labels.ndim not in (1, 2) or len(labels) != samples:
        raise InputError(
            f"labels {list(labels.shape)} do not fit {samples} samples",
            where=where,
            hint="labels are (samples,) or (samples, tokens)",
        )
    return labels.astype(np.int64)


def _batches(
    session: Session, inputs: Mapping[str, Array], labels: IntArray, output: str, batch: int
) -> Iterator[tuple[Array, IntArray]]:
    """Yield logits and labels; a short last batch is filled up where the graph fixes the size."""
    fixed = {spec.shape[0] for spec in session.input_signature if isinstance(spec.shape[0], int)}
    size = max(fixed, default=batch)
    for start in range(0, len(labels), size):
        expected = labels[start : start + size]
        index = np.arange(start, start + size if fixed else start + len(expected))
        feed = {name: array.take(index, axis=0, mode="clip") for name, array in inputs.items()}
        logits = session.run(feed, [output])[output]
        if logits.ndim == 0 or len(logits) != len(index):
            raise InputError(
                f"output {output!r} {list(logits.shape)} has not one row per sample",
                where=session.name,
            )
        yield logits[: len(expected)], expected


def _counted(
    logits: Array, labels: IntArray, output: str, where: str | None
) -> tuple[FloatArray, IntArray]:
    """Return the rows (n, classes) whose labels count, and those labels (n,)."""
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"labels {list(labels.shape)} do not fit output {output!r} {list(logits.shape)}",
            where=where,
            hint="labels are (N,) for logits (N, C) and (N, S) for logits (N, S, C)",
        )
    counts = labels != IGNORED
    rows, wanted = logits[counts].astype(np.float64), labels[counts]
    classes = logits.shape[-1]
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= classes):
        raise InputError(
            f"a label lies outside of 0..{classes - 1} (-100 does not count)",
            where=where,
            hint=f"output {output!r} has {classes} classes",
        )
    if np.isnan(rows).any() or np.isposinf(rows).any() or np.isneginf(rows).all(axis=1).any():
        raise VerificationError(
            f"output {output!r} is not finite", where=where, hint="check the model's weights"
        )
    return rows, wanted
