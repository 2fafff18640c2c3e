"""Samples in batches of the size that a model wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphrebase.errors import InputError
from graphrebase.runtime.session import Session

LOGITS = "logits"


def main_output(session: Session) -> str:
    """Return the output that holds what a model predicts: ``logits``, else the first."""
    return LOGITS if LOGITS in session.outputs else session.outputs[0]


def fixed_batch(session: Session) -> int | None:
    """Return the size that the model declares for axis 0 of its inputs, if it declares one.

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
    return next(iter(fixed), None)


def predict(
    session: Session, arrays: Mapping[str, np.ndarray], start: int, stop: int, size: int
) -> np.ndarray:
    """Return a model's main output for samples ``start`` to ``stop``.

    Runs are always of whole batches, the last sample repeated: some exports bake their batch size
    in, undeclared.

    Args:
        session: the model.
        arrays: one array per input, axis 0 the samples.
        start: first sample.
        stop: sample after the last.
        size: samples per run; a model with a fixed size is run in that.

    Raises:
        VerificationError: the model does not run.
    """
    output, size = main_output(session), fixed_batch(session) or size
    found = []
    for first in range(start, stop, size):
        count = min(size, stop - first)
        inputs = {name: _rows(array, first, first + count, size) for name, array in arrays.items()}
        values = session.run(inputs, outputs=[output])[output]
        found.append(values[:count] if values.shape[:1] == (size,) else values)
    return found[0] if len(found) == 1 else np.concatenate(found)


def outputs(
    session: Session, arrays: Mapping[str, np.ndarray], names: Sequence[str], *, size: int = 16
) -> dict[str, np.ndarray]:
    """Return several outputs for all samples, runs of whole batches as in ``predict``.

    Args:
        session: the model.
        arrays: one array per input, axis 0 the samples.
        names: of the outputs.
        size: samples per run; a model with a fixed size is run in that.

    Raises:
        VerificationError: the model does not run.
    """
    samples = min(len(array) for array in arrays.values())
    size = fixed_batch(session) or min(size, samples)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for first in range(0, samples, size):
        count = min(size, samples - first)
        inputs = {name: _rows(array, first, first + count, size) for name, array in arrays.items()}
        for name, values in session.run(inputs, outputs=names).items():
            # rows of several tokens may lie one after the other in axis 0
            found[name].append(values[: len(values) * count // size])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _rows(array: np.ndarray, start: int, stop: int, size: int) -> np.ndarray:
    """Return samples start..stop, the last one repeated to fill up to ``size``."""
    rows = array[start:stop]
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
