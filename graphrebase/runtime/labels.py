"""Labels for a model: those that the data bring, else the next tokens of a causal model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphrebase.errors import InputError
from graphrebase.runtime.batches import predict
from graphrebase.runtime.data import cast_inputs, check_inputs, load_npz, split_labels
from graphrebase.runtime.scores import IGNORED
from graphrebase.runtime.session import Session
from graphrebase.runtime.signature import token_input


@dataclass(frozen=True, slots=True)
class Labelled:
    """Data to measure on.

    Attributes:
        inputs: one array per input, axis 0 the samples.
        labels: see `evaluate`.
        source: where the labels are from, in words.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    source: str


def read_labelled(path: Path, session: Session) -> Labelled:
    """Return the data of an npz file, with labels that fit a model.

    Raises:
        InputError: the file cannot be read, does not fit the model, or has no labels and the model
            is not causal.
    """
    inputs, labels = split_labels(load_npz(path))
    check_inputs(inputs, session.inputs, where=str(path))
    if labels is not None:
        return Labelled(inputs, labels, "label")
    tokens = token_input(session)
    if tokens is None or tokens not in inputs or not _is_causal(session, tokens, inputs):
        raise InputError(
            "the data has no labels, and the model is no causal language model that would need "
            "none",
            where=str(path),
            hint="add an array named 'label'",
        )
    return Labelled(inputs, next_tokens(tokens, inputs), f"the next tokens of '{tokens}'")


def next_tokens(tokens: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return for every position the token that follows, ignored at the end and beside padding."""
    ids = inputs[tokens].astype(np.int64)
    labels = np.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:]
    for name, mask in inputs.items():
        if "mask" in name.lower() and mask.shape == ids.shape:
            labels[:, :-1][(mask[:, 1:] == 0) | (mask[:, :-1] == 0)] = IGNORED
    return labels


def _is_causal(session: Session, tokens: str, inputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether another last token leaves the logits of all earlier ones as they are."""
    first = {n: a[:1] for n, a in cast_inputs(session, inputs).items() if n in session.inputs}
    ids = first[tokens]
    if ids.ndim != 2 or ids.shape[1] < 2:
        return False
    other = {**first, tokens: ids.copy()}
    other[tokens][0, -1] = 0 if ids[0, -1] else 1
    one, two = (predict(session, x, 0, 1, 1) for x in (first, other))
    if one.ndim != 3 or one.shape[:2] != ids.shape or one.shape[-1] <= int(ids.max()):
        return False
    scale = max(float(np.abs(one).max()), 1e-6)
    return bool(np.allclose(one[:, :-1], two[:, :-1], atol=1e-4 * scale))
