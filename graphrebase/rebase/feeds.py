"""Probes made ready to be fed: in both vocabularies, completed, in batches that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphrebase.errors import InputError, MismatchError
from graphrebase.runtime import Session, cast_inputs, synthetic_inputs
from graphrebase.runtime.batches import batch_of, taken
from graphrebase.runtime.synthetic import is_made_up
from graphrebase.runtime.vocabulary import Vocabularies

Arrays = Mapping[str, np.ndarray]


BATCH = 16
"""Samples per run."""


ELEMENTS = 1 << 20
"""Elements of one residual stream per run, at most, where it does not become less than one."""


def in_both_vocabularies(
    arrays: Arrays, vocabularies: Vocabularies | None, *, new: bool
) -> tuple[Arrays, Arrays, np.ndarray | None]:
    """Return inputs in A's vocabulary and in B's, and which tokens both have.

    Args:
        arrays: the inputs.
        vocabularies: of A and B; None if they are the same.
        new: whether the inputs are in B's.
    """
    if vocabularies is None:
        return arrays, arrays, None
    if new:
        old, known = vocabularies.to_old(arrays)
        return old, arrays, known
    other, known = vocabularies.to_new(arrays)
    return arrays, other, known


def common_batch(runs: Sequence[tuple[Session, Arrays]]) -> int | None:
    """Return the samples that every run of some models must have; None where it is free.

    Args:
        runs: the models, and what they are to run on.

    Raises:
        MismatchError: the models take different numbers of them.
        VerificationError: a model does not run.
    """
    sizes = {batch_of(session, fitting_inputs(session, data)) for session, data in runs} - {None}
    if len(sizes) > 1:
        raise MismatchError(
            f"the models take different numbers of samples: {sorted(filter(None, sizes))}",
            hint="export them with one batch size, or with a dynamic one",
        )
    return next(iter(sizes), None)


def affordable_batch(session: Session, data: Arrays, most: int) -> int:
    """Return the samples of a run: fewer where a sample's streams are large."""
    streams = session.run(fitting_inputs(session, taken(data, slice(1))))
    largest = max(array.size for array in streams.values())
    return int(np.clip(ELEMENTS // largest, 1, most))


def fitting_inputs(session: Session, inputs: Arrays) -> dict[str, np.ndarray]:
    """Return those of the inputs that a session takes."""
    return {name: inputs[name] for name in session.inputs if name in inputs}


def _for_all(made: np.ndarray, samples: int) -> np.ndarray:
    """Return an array for every sample, where an export has another number of them baked in."""
    if made.ndim == 0 or len(made) == samples:
        return made
    return np.repeat(made[:1], samples, axis=0)


def complete(session: Session, arrays: Arrays) -> dict[str, np.ndarray]:
    """Return probes in the model's types, with masks, positions and token types filled in.

    Caches of past tokens are empty, inputs that count tokens count those given.

    Raises:
        InputError: the samples disagree, or an input that cannot be made up is missing.
    """
    if not arrays:
        return {}
    given = {n: a for n, a in cast_inputs(session, arrays).items() if n in session.inputs}
    counts = {len(a) for a in given.values() if a.ndim}
    if len(counts) != 1:
        raise InputError(
            f"the probes fit no input, or their samples disagree: {sorted(arrays)}",
            hint=f"give one array per input: {', '.join(session.inputs)}",
        )
    samples = counts.pop()
    lengths = [a.shape[1] for a in given.values() if a.ndim == 2]
    missing = [name for name in session.inputs if name not in given]
    if missing:
        length = max(lengths, default=1)
        made = synthetic_inputs(session, batch=samples, length=length, seed=0, cache="empty")
        odd = [n for n in missing if made[n].size and not is_made_up(session, n)]
        if odd:
            raise InputError(
                f"the probes lack the input '{odd[0]}'", hint="add an array of this name"
            )
        given |= {name: _for_all(made[name], samples) for name in missing}
    return given
