"""How well a model does on labelled data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.runtime.data import cast_inputs
from graphrebase.runtime.session import Session

IGNORED = -100
_LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over the scored labels.

    Attributes:
        cross_entropy: mean negative log-likelihood of the label, in nats.
        accuracy: share of labels whose logit is the largest.
        samples: number of scored labels; per position where labels have positions.
    """

    cross_entropy: float
    accuracy: float
    samples: int


def evaluate(
    session: Session,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    batch_size: int = 64,
) -> Scores:
    """Return cross-entropy and accuracy of a model's logits.

    The logits are the output named ``logits``, else the first output.

    Args:
        session: a model with logits (N, C), or (N, S, V).
        inputs: one array per input, axis 0 the N samples; cast to the input's type.
        labels: integers (N,), or (N, S); -100 is ignored.
        batch_size: samples per run; a model with a fixed size in axis 0 is run in that size.

    Raises:
        UsageError: the batch size is below 1.
        InputError: the sample counts disagree, the shapes do not fit, or a label is no class.
        VerificationError: the model does not run, or its logits are not finite.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}", hint="use 1 or more")
    arrays = cast_inputs(session, inputs)
    count = _sample_count(arrays, labels)
    _check_labels(labels)
    _check_shapes(session, arrays)
    output = _LOGITS if _LOGITS in session.outputs else session.outputs[0]
    # Always whole batches: some exports bake their batch size in, undeclared.
    size = _fixed_batch(session) or max(1, min(batch_size, count))
    loss, hits, scored = 0.0, 0, 0
    for start in range(0, count, size):
        stop = min(start + size, count)
        batch = {name: _rows(array, start, stop, size) for name, array in arrays.items()}
        logits = session.run(batch, outputs=[output])[output]
        if logits.shape[:1] == (size,):
            logits = logits[: stop - start]
        part = _score(logits, labels[start:stop], output)
        loss, hits, scored = loss + part[0], hits + part[1], scored + part[2]
    return _means(loss, hits, scored, output)


def _means(loss: float, hits: int, scored: int, output: str) -> Scores:
    if not scored:
        raise InputError(f"every label is {IGNORED}: nothing to score", hint="check 'label'")
    if not np.isfinite(loss):
        raise VerificationError(
            f"output '{output}' is not finite on these data",
            hint="try a smaller alpha, or verify the model first",
        )
    return Scores(loss / scored, hits / scored, scored)


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
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2):
        raise InputError(
            f"'label' has type {labels.dtype} and shape {labels.shape}",
            hint="store integers of shape (samples,) or (samples, positions)",
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


def _fixed_batch(session: Session) -> int | None:
    """Return the size that the model declares for axis 0 of its inputs, if it declares one."""
    sizes = {spec.shape[0] for spec in session.inputs.values() if spec.shape}
    fixed = {size for size in sizes if isinstance(size, int)}
    if len(fixed) > 1 or 0 in fixed:
        raise InputError(
            f"axis 0 of the inputs has several fixed sizes: {sorted(fixed)}",
            hint="export the model with the samples on axis 0 of every input",
        )
    return next(iter(fixed), None)


def _rows(array: np.ndarray, start: int, stop: int, size: int) -> np.ndarray:
    """Return samples start..stop, the last one repeated to fill up to ``size``."""
    rows = array[start:stop]
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _score(logits: np.ndarray, labels: np.ndarray, output: str) -> tuple[float, int, int]:
    """Return the summed loss, the hits and the number of labels that are not ignored."""
    if logits.dtype.kind in "biuOSU" or logits.shape[:-1] != labels.shape:
        raise InputError(
            f"output '{output}' ({logits.dtype}, shape {logits.shape}) holds no logits for labels "
            f"of shape {labels.shape}",
            hint="logits are (samples, classes), or (samples, positions, vocabulary)",
        )
    kept = labels != IGNORED
    chosen, target = logits[kept].astype(np.float64), labels[kept].astype(np.int64)
    classes = logits.shape[-1]
    outside = target[(target < 0) | (target >= classes)]
    if outside.size:
        raise InputError(
            f"label {outside[0]} is out of range: the model has {classes} classes",
            hint=f"labels are 0 to {classes - 1}, or {IGNORED} to ignore one",
        )
    if not target.size:
        return 0.0, 0, 0
    peak = chosen.max(axis=-1)
    with np.errstate(invalid="ignore"):  # what is not finite is reported at the end
        total = peak + np.log(np.exp(chosen - peak[:, None]).sum(axis=-1))
        loss = total - chosen[np.arange(target.size), target]
    return float(loss.sum()), int((chosen.argmax(axis=-1) == target).sum()), target.size
