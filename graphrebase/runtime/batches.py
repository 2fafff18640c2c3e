"""Samples in batches of the size that a model wants.

What an export declares of it is not all: some bake a batch in without saying so, and some
operators take one sample only (RotaryEmbedding of onnxruntime, with angles of one sample).
That is found by trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from graphrebase.errors import InputError, VerificationError
from graphrebase.runtime.session import Session

LOGITS = "logits"
_TRIED = (1, 2, 3, 4, 8, 16, 32)
"""Batches to try, in this order, where a model does not run in the one that was wanted."""
_TRIAL = 3
"""Samples of a trial: a number that nobody bakes in."""
Arrays = Mapping[str, np.ndarray]


def main_output(session: Session) -> str:
    """Return the output that holds what a model predicts: ``logits``, else the first."""
    return LOGITS if LOGITS in session.outputs else session.outputs[0]


def fixed_batch(session: Session) -> int | None:
    """Return the size that axis 0 of the inputs must have: as declared, or as a trial has shown.

    Raises:
        InputError: the inputs declare several sizes.
    """
    sizes = {spec.shape[0] for spec in session.inputs.values() if spec.shape}
    fixed = {size for size in sizes if isinstance(size, int)}
    if len(fixed) > 1 or 0 in fixed:
        raise InputError(
            f"axis 0 of the inputs has several fixed sizes: {sorted(fixed)}",
            hint="export the model with the samples on axis 0 of every input",
        )
    return next(iter(fixed), session.batch)


def batch_of(session: Session, arrays: Arrays) -> int | None:
    """Return the samples that every run must have, after a trial; None where it is free.

    Args:
        session: the model, which remembers what is found.
        arrays: one array per input, axis 0 the samples.

    Raises:
        InputError: the inputs declare several sizes.
        VerificationError: the model does not run, whatever the batch.
    """
    if fixed_batch(session) is None:
        try:
            session.run(_rows(arrays, 0, _TRIAL, _TRIAL))
        except VerificationError as failure:
            session.batch = _find_batch(session, arrays, _TRIAL, failure)
    return fixed_batch(session)


def _find_batch(session: Session, arrays: Arrays, size: int, failure: VerificationError) -> int:
    """Return a batch in which a model runs that does not run in one of ``size``."""
    for tried in _TRIED:
        if tried == size:
            continue
        try:
            session.run(_rows(arrays, 0, tried, tried))
        except VerificationError:
            continue
        return tried
    raise failure


def in_batches(
    session: Session,
    arrays: Arrays,
    names: Sequence[str],
    *,
    size: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[dict[str, np.ndarray], int, int]]:
    """Yield outputs of run after run, the samples of a run, and how many of these count.

    Runs are always of whole batches, the last sample repeated.

    Args:
        session: the model.
        arrays: one array per input, axis 0 the samples.
        names: of the outputs.
        size: samples per run, unless the model takes another number of them only.
        start: first sample.
        stop: sample after the last; all by default.

    Raises:
        VerificationError: the model does not run.
    """
    stop = sample_count(arrays) if stop is None else stop
    size = fixed_batch(session) or size
    while start < stop:
        inputs = _rows(arrays, start, min(start + size, stop), size)
        try:
            found = session.run(inputs, outputs=names)
        except VerificationError as failure:
            if size == 1 or fixed_batch(session) is not None:
                raise
            size = session.batch = _find_batch(session, inputs, size, failure)
            continue
        yield found, size, min(size, stop - start)
        start += size


def predict(session: Session, arrays: Arrays, start: int, stop: int, size: int) -> np.ndarray:
    """Return a model's main output for samples ``start`` to ``stop``.

    Args:
        session: the model.
        arrays: one array per input, axis 0 the samples.
        start: first sample.
        stop: sample after the last.
        size: samples per run, unless the model takes another number of them only.

    Raises:
        VerificationError: the model does not run.
    """
    output, found = main_output(session), []
    runs = in_batches(session, arrays, [output], size=size, start=start, stop=stop)
    for values, many, count in runs:
        array = values[output]
        found.append(array[:count] if array.shape[:1] == (many,) else array)
    return found[0] if len(found) == 1 else np.concatenate(found)


def outputs(
    session: Session, arrays: Arrays, names: Sequence[str], *, size: int = 16
) -> dict[str, np.ndarray]:
    """Return several outputs for all samples.

    Args:
        session: the model.
        arrays: one array per input, axis 0 the samples.
        names: of the outputs.
        size: samples per run, unless the model takes another number of them only.

    Raises:
        VerificationError: the model does not run.
    """
    samples = sample_count(arrays)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for run, many, count in in_batches(session, arrays, names, size=min(size, samples)):
        for name, values in run.items():
            # rows of several tokens may lie one after the other in axis 0
            found[name].append(values[: len(values) * count // many])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def sample_count(arrays: Arrays) -> int:
    """Return the number of samples, 0 of no arrays; scalars hold for all samples."""
    return min((len(array) for array in arrays.values() if array.ndim), default=0)


def taken(arrays: Arrays, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Return some samples; scalars hold for all."""
    return {name: array[rows] if array.ndim else array for name, array in arrays.items()}


def _rows(arrays: Arrays, start: int, stop: int, size: int) -> dict[str, np.ndarray]:
    """Return samples start..stop, the last one repeated to fill up to ``size``."""
    return {n: repeated(x[start:stop], size) if x.ndim else x for n, x in arrays.items()}


def whole_batches(arrays: Arrays, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield all samples in batches of one size, the last sample repeated to fill the last."""
    for start in range(0, sample_count(arrays), size):
        yield _rows(arrays, start, start + size, size)


def repeated(array: np.ndarray, size: int) -> np.ndarray:
    """Return an array with its last sample repeated, so that there are ``size`` of them."""
    if len(array) >= size:
        return array
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
