"""Sequences sampled from a language model itself.

Token by token where it is causal, by re-drawing single tokens (Gibbs sampling) where it is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from graphrebase.errors import VerificationError
from graphrebase.graph import Graph
from graphrebase.runtime.batches import batch_of
from graphrebase.runtime.counts import count_tokens
from graphrebase.runtime.session import Session
from graphrebase.runtime.signature import Arrays, Note, logits_of, sequence_length
from graphrebase.runtime.synthetic import synthetic_inputs, table_limit

SEQUENCES = 120
"""Sequences (measured: 40 recover less, .47 of the gain in place of .51)."""
FEWEST, SHORTEST = 16, 16
"""Sequences, and tokens of one, below which nothing is saved."""
TRIED = 2
"""Sequences on which a model is tried out."""
LOGITS = 1 << 25
"""Logits of one run, at most."""
SWEEPS = 12
REDRAWN = 0.15


def sample(
    session: Session,
    tokens: str,
    graph: Graph,
    rng: np.random.Generator,
    *,
    seconds: float,
    length: int | None = None,
    note: Note,
) -> Arrays:
    """Return sequences drawn from a language model, with masks and positions, ready to run.

    Where time is short there are fewer, and then shorter ones.
    """
    vocabulary, length = table_limit(graph), length or sequence_length(session, graph)
    made = synthetic_inputs(
        session, batch=1, length=length, seed=0, vocabulary=vocabulary, cache="empty"
    )
    batch = batch_of(session, made)
    count = SEQUENCES if batch is None else -(-SEQUENCES // batch) * batch
    start = {n: np.repeat(x[:1], count, axis=0) if x.ndim else x for n, x in made.items()}
    start[tokens] = rng.integers(0, vocabulary, start[tokens].shape).astype(start[tokens].dtype)
    trial = _cut(start, slice(batch or TRIED))
    began = time.perf_counter()
    causal = is_causal(session, tokens, trial, vocabulary)
    read = 2 * len(trial[tokens]) * length
    affordable = int(seconds * read / max(time.perf_counter() - began, 1e-9))
    growing = causal and _grows(session, trial)
    runs = length / 2 if growing else length if causal else SWEEPS
    count = int(np.clip(affordable / (runs * length), min(FEWEST, count), count))
    count = -(-count // (batch or 1)) * (batch or 1)
    if growing:  # the cost of a sequence is about length^2 / 2 tokens
        length = int(np.clip(math.sqrt(2 * affordable / count), SHORTEST, length))
    start = _cut(start, slice(count))
    start = _begun(session, start, length) if growing else start
    note(f"{count} sequences of {length} tokens from the model itself")
    rows = batch or max(1, LOGITS // (length * vocabulary))
    own = rng.spawn(count)  # a sequence does not depend on how many are drawn together
    found = [
        _draw_forward(session, tokens, part, vocabulary, own[i : i + rows], growing=growing)
        if causal
        else _redraw(session, tokens, part, vocabulary, own[i : i + rows])
        for i, part in ((i, _cut(start, slice(i, i + rows))) for i in range(0, count, rows))
    ]
    return {
        name: np.concatenate([part[name] for part in found]) if array.ndim else array
        for name, array in start.items()
    }


def _begun(session: Session, inputs: Arrays, length: int) -> Arrays:
    """Return the first tokens of inputs, and as many counted."""
    found = _cut(inputs, slice(None), slice(length))
    found |= {name: found[name].copy() for name in session.counts if name in found}
    count_tokens(found, length, session.counts)
    return found


def _cut(inputs: Arrays, rows: slice, columns: slice = slice(None)) -> Arrays:
    """Return some samples of inputs, and of those that are per token some of the tokens."""
    return {
        n: x[rows, columns] if x.ndim == 2 else x[rows] if x.ndim else x for n, x in inputs.items()
    }


def _grows(session: Session, inputs: Arrays) -> bool:
    """Return whether a model runs on the first tokens only."""
    shapes = [s.shape for s in session.inputs.values() if len(s.shape) == 2]
    if any(isinstance(shape[1], int) for shape in shapes):
        return False
    try:
        return bool(logits_of(session, _begun(session, inputs, 1)).shape[1] == 1)
    except VerificationError:
        return False


def is_causal(session: Session, tokens: str, inputs: Arrays, vocabulary: int) -> bool:
    """Return whether logits per token do not depend on the tokens that follow.

    Args:
        session: the model.
        tokens: the input that holds tokens.
        inputs: a few samples.
        vocabulary: number of tokens.
    """
    if inputs[tokens].shape[1] < 2:
        return True
    changed = dict(inputs)
    changed[tokens] = inputs[tokens].copy()
    changed[tokens][:, -1] = (changed[tokens][:, -1] + 1) % vocabulary
    one, two = (logits_of(session, x)[:, :-1] for x in (inputs, changed))
    return bool(np.allclose(one, two, atol=1e-4 * max(float(np.abs(one).max()), 1e-6)))


def _draw_forward(
    session: Session,
    tokens: str,
    inputs: Arrays,
    vocabulary: int,
    own: Sequence[np.random.Generator],
    *,
    growing: bool,
) -> Arrays:
    """Draw token after token; what follows is not seen by a causal model."""
    for place in range(1, inputs[tokens].shape[1]):
        seen = _begun(session, inputs, place) if growing else inputs
        logits = logits_of(session, seen)[:, place - 1, :vocabulary]
        inputs[tokens][:, place] = [draw(*pair) for pair in zip(logits, own, strict=True)]
    return inputs


def _redraw(
    session: Session,
    tokens: str,
    inputs: Arrays,
    vocabulary: int,
    own: Sequence[np.random.Generator],
) -> Arrays:
    """Draw a share of the tokens again and again, each time from random ones in their place."""
    ids = inputs[tokens]
    for _ in range(SWEEPS):
        places = [np.flatnonzero(rng.random(ids.shape[1:]) < REDRAWN) for rng in own]
        for row, where, rng in zip(ids, places, own, strict=True):
            row[where] = rng.integers(0, vocabulary, len(where))
        logits = logits_of(session, inputs)[..., :vocabulary]
        for row, scores, where, rng in zip(ids, logits, places, own, strict=True):
            row[where] = draw(scores[where], rng)
    return inputs


def draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one index per row (.., V) of logits, drawn from its softmax (Gumbel trick)."""
    return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1))
