"""How well a model does on labelled data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime.batches import fixed_batch, main_output, predict
from graphrebase.runtime.data import cast_inputs
from graphrebase.runtime.metrics import CLASSES, NUMBERS, TOKENS, ClassSums, NumberSums
from graphrebase.runtime.session import Session

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over the scored labels.

    Attributes:
        kind: ``classes`` (a label per sample), ``tokens`` (a label per position) or ``numbers``.
        values: every metric of that kind, by its name in the table of metrics.
        samples: number of scored labels; per position where labels have positions.
    """

    kind: str
    values: Mapping[str, float]
    samples: int

    @property
    def cross_entropy(self) -> float:
        """Mean negative log-likelihood of the label, in nats."""
        return self.values["cross-entropy"]

    @property
    def accuracy(self) -> float:
        """Share of labels whose logit is the largest."""
        return self.values["accuracy"]


def evaluate(
    session: Session,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    batch_size: int = 64,
) -> Scores:
    """Return how well a model predicts labels.

    What it predicts is the output named ``logits``, else the first output.

    Args:
        session: a model with logits (N, C) or (N, S, V), or with numbers (N,) or (N, K).
        inputs: one array per input, axis 0 the N samples; cast to the input's type.
        labels: integers (N,) or (N, S), -100 ignored; or floats of the output's shape, NaN
            ignored. Integers are taken as numbers where the model has one output per sample.
        batch_size: samples per run; a model with a fixed size in axis 0 is run in that size.

    Raises:
        UsageError: the batch size is below 1.
        InputError: the sample counts disagree, the shapes do not fit, or a label is no class.
        VerificationError: the model does not run, or its output is not finite.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}", hint="use 1 or more")
    arrays = cast_inputs(session, inputs)
    count = _sample_count(arrays, labels)
    _check_labels(labels)
    _check_shapes(session, arrays)
    size = fixed_batch(session) or max(1, min(batch_size, count))
    sums: ClassSums | NumberSums | None = None
    kind = NUMBERS
    for start in range(0, count, size):
        stop = min(start + size, count)
        found = predict(session, arrays, start, stop, size)
        part = labels[start:stop]
        if _are_numbers(found, part):
            sums = _add_numbers(sums, found, part, main_output(session))
        else:
            kind = TOKENS if labels.ndim == 2 else CLASSES
            sums = _add_classes(sums, found, part, main_output(session))
    return _means(kind, sums, main_output(session))


def _means(kind: str, sums: ClassSums | NumberSums | None, output: str) -> Scores:
    if sums is None or not sums.scored:
        raise InputError(f"every label is {IGNORED}: nothing to score", hint="check 'label'")
    values = sums.means()
    if not np.isfinite(next(iter(values.values()))):
        raise VerificationError(
            f"output '{output}' is not finite on these data",
            hint="try a smaller alpha, or verify the model first",
        )
    return Scores(kind, values, sums.scored)


def _sample_count(inputs: Mapping[str, np.ndarray], labels: np.ndarray) -> int:
    scalar = [name for name, array in (*inputs.items(), ("label", labels)) if array.ndim == 0]
    if scalar:
        raise InputError(f"'{scalar[0]}' is a scalar; axis 0 has to be the samples")
    wrong = {name: len(array) for name, array in inputs.items() if len(array) != len(labels)}
    if wrong:
        listed = ", ".join(f"'{name}' has {count}" for name, count in wrong.items())
        raise InputError(
            f"the numbers of samples disagree: 'label' has {len(labels)}, {listed}",
            hint="axis 0 of every array is the samples",
        )
    return len(labels)


def _check_labels(labels: np.ndarray) -> None:
    if labels.dtype.kind not in "iuf" or labels.ndim not in (1, 2):
        raise InputError(
            f"'label' has type {labels.dtype} and shape {labels.shape}",
            hint="store integers of shape (samples,) or (samples, positions), or floats for a "
            "model that predicts numbers",
        )


def _check_shapes(session: Session, inputs: Mapping[str, np.ndarray]) -> None:
    for name, spec in session.inputs.items():
        if name not in inputs:
            continue  # the run names all that are missing
        given, declared = inputs[name].shape, spec.shape
        fits = len(given) == len(declared) and all(
            isinstance(d, str) or d == size for size, d in zip(given[1:], declared[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"input '{name}' has shape {given}, the model needs {declared}",
                hint="axis 0 is the samples",
            )


def _are_numbers(found: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether a model gives numbers to compare with, not logits to choose from."""
    single = found.shape in (labels.shape, (*labels.shape, 1)) and labels.ndim == 1
    return found.dtype.kind not in "biuOSU" and (single or labels.dtype.kind == "f")


def _add_numbers(
    sums: ClassSums | NumberSums | None, found: np.ndarray, labels: np.ndarray, output: str
) -> NumberSums:
    wanted = labels[:, None] if found.ndim == labels.ndim + 1 == 2 else labels
    if found.shape != wanted.shape:
        raise InputError(
            f"output '{output}' has shape {found.shape}, labels of type {labels.dtype} have "
            f"shape {labels.shape}",
            hint="float labels need the output's shape; store class labels as integers",
        )
    kept = ~np.isnan(wanted) if wanted.dtype.kind == "f" else wanted != IGNORED
    result = sums if isinstance(sums, NumberSums) else NumberSums()
    result.add(found[kept], wanted[kept])
    return result


def _add_classes(
    sums: ClassSums | NumberSums | None, logits: np.ndarray, labels: np.ndarray, output: str
) -> ClassSums:
    if logits.dtype.kind in "biuOSU" or logits.shape[:-1] != labels.shape:
        raise InputError(
            f"output '{output}' ({logits.dtype}, shape {logits.shape}) holds no logits for labels "
            f"of shape {labels.shape}",
            hint="logits are (samples, classes), or (samples, positions, vocabulary)",
        )
    kept = labels != IGNORED
    target, classes = labels[kept].astype(np.int64), logits.shape[-1]
    outside = target[(target < 0) | (target >= classes)]
    if outside.size:
        raise InputError(
            f"label {outside[0]} is out of range: the model has {classes} classes",
            hint=f"labels are 0 to {classes - 1}, or {IGNORED} to ignore one",
        )
    result = sums if isinstance(sums, ClassSums) else ClassSums(classes)
    if target.size:
        result.add(logits[kept], target)
    return result
