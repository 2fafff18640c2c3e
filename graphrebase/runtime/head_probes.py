"""Probes for a head that neither base has, made without any data.

They have to spread over what the head tells apart, or a head fitted on them knows but few classes.
Text: where the base fills masks in, it writes sequences from nothing but masks, in some rounds, and
Gibbs sampling with it then draws every sequence towards a class of its own: a step is taken with
probability min(1, (p'/p)^3), p the class's probability by A_ft, which samples from about
p_base(text) p_A_ft(class | text)^3. Images: those of a pool on which A_ft is
most confident, class by class.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph
from graphrebase.runtime.batches import fixed_batch, outputs, predict
from graphrebase.runtime.image_probes import (
    SCALES,
    TRIALS,
    find_range,
    image_shape,
    images_per_run,
    seconds_per_image,
    spread,
)
from graphrebase.runtime.images import pool
from graphrebase.runtime.probes import PLANNED, SECONDS, Opener, Probes
from graphrebase.runtime.session import Session
from graphrebase.runtime.signature import Note, image_input, sequence_length, token_input
from graphrebase.runtime.synthetic import synthetic_inputs, table_limit
from graphrebase.runtime.text_probes import draw, is_causal
from graphrebase.runtime.verdict import class_scores

FEWEST = 16
"""Sequences that there always are, however long it takes."""
POOL = 6000
IMAGES = 2000
"""Images of the pool, which must be those that A_ft is surest of (a small ViT pair, three seeds:
.59 of the gain with 2000 of 6000, .52 with 1000 of 3000; without a choice, 3000 of 3000, .53)."""
ROUNDS = 8, 16
"""Rounds in which sequences are written, each an even share of the tokens, anywhere; more where
there is time (two small BERT pairs, 32 sequences: .65 of the gain with 8; from random tokens, which
need more steps, .04. Three pairs, 320 sequences and 150 steps: .74 with 16, .70 with 8)."""
REDRAWN = 6
"""Tokens that one step draws again; three times as many in the first third of random ones."""
SHARPNESS = 3.0
"""Power of the class's probability in a step: above 1, sequences are drawn closer to classes."""
LEAST_VOCABULARY = 64
_BATCH = 40
_TRIED = 2, _BATCH
"""Sequences that show how long one takes; more only where there is much time, for few are slow."""
_TRIAL = 0.1
"""Share of the time that the second trial may take."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Effort:
    """What is done where there is time for it; where there is not, there are fewer sequences.

    Attributes:
        sequences: how many.
        least: steps that each of them gets where there are fewer.
        steps: steps otherwise.
    """

    sequences: int
    least: int
    steps: int


_WRITTEN, _RANDOM = _Effort(512, 3, 25), _Effort(320, 50, 150)
"""For texts that were written and for random ones, which need more steps (two small BERT pairs: .65
of the gain with 64 and 3 steps; random ones .69 with 320 and 20, .72 with 150). Little enough that
no clock decides where models are small (four pairs: .74 with 640 and 25 steps, .72 with 320 and 50
at the same cost; .70 to .75 with 320 and as many of 150 as there was time for)."""


def head_probe_kind(finetuned: Session) -> str:
    """Return how probes for a new head are made: ``text``, ``image`` or ``other``."""
    if token_input(finetuned) is not None:
        return "text"
    single = image_input(finetuned) is not None and len(finetuned.inputs) == 1
    return "image" if single else "other"


def generate_for_head(
    opened: Opener,
    graph: Graph,
    *,
    bias: np.ndarray | None = None,
    seed: int = 0,
    seconds: float = SECONDS,
    note: Note = lambda _: None,
) -> Probes:
    """Return probes for a head that only A_ft has; nothing is to be kept.

    Args:
        opened: opens ``base`` or ``finetuned``; the target is not asked.
        graph: A_ft's graph, for the sizes of its tables.
        bias: of the output of a base that fills masks in, (V,).
        seed: of everything random.
        seconds: time it may take.
        note: told what is generated.
    """
    rng, seconds = np.random.default_rng(seed), PLANNED * seconds
    finetuned = opened("finetuned")
    tokens, image = token_input(finetuned), image_input(finetuned)
    if tokens is not None:
        return Probes(
            _texts(opened("base"), finetuned, graph, Signs.of(bias), rng, seconds, note), {}, "text"
        )
    if image is not None:
        return Probes(_images(finetuned, image, rng, seconds, note), {}, "image")
    inputs = synthetic_inputs(finetuned, batch=_RANDOM.sequences, length=32, seed=seed)
    return Probes(inputs, {}, "other")


@dataclass(frozen=True, slots=True)
class Signs:
    """Tokens with a function.

    Attributes:
        mask: stands for an unknown token; None: random tokens do.
        first: begins a sequence; None: any.
    """

    mask: int | None = None
    first: int | None = None

    @classmethod
    def of(cls, bias: np.ndarray | None) -> Signs:
        """Return what the bias (V,) of a masked model's output says.

        Training never asks for these tokens. The stream at a masked place holds the mask's own
        embedding, which the output's table, tied to it, would read as the mask: nothing is pushed
        down as far. What begins every sequence comes next (measured on small models).
        """
        if bias is None or len(bias) < LEAST_VOCABULARY:
            return cls()
        lowest = np.argsort(bias, kind="stable")
        return cls(int(lowest[0]), int(lowest[1]))

    @property
    def silent(self) -> list[int]:
        """Tokens that are never written."""
        return [token for token in (self.mask, self.first) if token is not None]


@dataclass(frozen=True, slots=True)
class _Writer:
    """A masked model and its output over the vocabulary."""

    session: Session
    output: str


def _writer(base: Session, tokens: str, vocabulary: int, length: int) -> _Writer | None:
    """Return the base as a writer of text, None if it fills nothing in."""
    if token_input(base) != tokens:
        return None
    inputs = synthetic_inputs(
        base, batch=fixed_batch(base) or 1, length=length, seed=0, vocabulary=vocabulary
    )
    for name, values in base.run(inputs).items():
        if values.ndim == 3 and values.shape[1:] >= (length, vocabulary):
            causal = is_causal(base, tokens, inputs, vocabulary)
            return None if causal else _Writer(base, name)
    return None


def _texts(
    base: Session,
    finetuned: Session,
    graph: Graph,
    signs: Signs,
    rng: np.random.Generator,
    seconds: float,
    note: Note,
) -> Arrays:
    """Return sequences that spread over A_ft's classes."""
    began = time.perf_counter()
    tokens = token_input(finetuned)
    assert tokens is not None
    vocabulary, length = table_limit(graph), sequence_length(finetuned, graph)
    writer = _writer(base, tokens, vocabulary, length)
    batch = fixed_batch(finetuned) or 1
    made = synthetic_inputs(finetuned, batch=batch, length=length, seed=0, vocabulary=vocabulary)
    if writer is None:
        signs = Signs()
    effort = _RANDOM if signs.mask is None else _WRITTEN
    walk = _Walk(writer, signs, finetuned, tokens, made, vocabulary)
    for tried in _TRIED:
        start, step = walk.trial(length, -(-tried // batch) * batch, rng.spawn(1)[0])
        left = seconds - (time.perf_counter() - began)
        if _BATCH * (start + step) > _TRIAL * left:
            break
    count = int(np.clip(left / max(start + effort.least * step, 1e-9), FEWEST, effort.sequences))
    count = max(count // batch, 1) * batch
    steps = int(np.clip((left / count - start) / max(step, 1e-9), 1, effort.steps))
    ids = walk.begun(count, length, int(np.clip(steps, *ROUNDS)), rng)
    scores, done = walk.scores(ids), 0
    while done < effort.steps:
        early = signs.mask is None and done < steps // 3
        ids, scores = walk.stepped(ids, scores, done, rng, early=early)
        done += 1
        if time.perf_counter() - began + count * step > seconds:
            break
    how = "from random tokens" if signs.mask is None else "by the base's masked head"
    much = f"{done} of {effort.steps} steps towards every class"
    note(f"{count} sequences of {length} tokens {how}, {much}")
    return walk.filled(ids)


@dataclass(frozen=True, slots=True)
class _Walk:
    """A Markov chain over sequences, each on its way to a class."""

    writer: _Writer | None
    signs: Signs
    finetuned: Session
    tokens: str
    inputs: Arrays
    vocabulary: int

    def filled(self, ids: np.ndarray) -> Arrays:
        """Return sequences with all else that the model is to be given."""
        like = {
            name: np.repeat(array[:1], len(ids), axis=0) if array.ndim else array
            for name, array in self.inputs.items()
        }
        return like | {self.tokens: ids.astype(self.inputs[self.tokens].dtype)}

    def trial(self, length: int, count: int, rng: np.random.Generator) -> tuple[float, float]:
        """Return the seconds that a sequence takes to begin, and for a step, tried on ``count``."""
        began = time.perf_counter()
        ids = self.begun(count, length, ROUNDS[0], rng)
        scores = self.scores(ids)
        between = time.perf_counter()
        self.stepped(ids, scores, 0, rng, early=True)
        return (between - began) / count, (time.perf_counter() - between) / count

    def begun(self, count: int, length: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
        """Return sequences that the base has written from masks, or random ones."""
        ids = self.any((count, length), rng)
        if self.signs.mask is None:
            return ids
        free = np.arange(length) >= self.skipped
        ids[:, free] = self.signs.mask
        order = rng.random(ids.shape).argsort(axis=1).argsort(axis=1)
        for turn in range(rounds):
            places = free & (order * rounds // length == turn)
            if places.any():
                ids[places] = self._written(ids, places, rng)
        return ids

    @property
    def skipped(self) -> int:
        """Tokens at the beginning that stay as they are."""
        return 0 if self.signs.first is None else 1

    def any(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Return random sequences, begun as they should be."""
        words = np.setdiff1d(np.arange(self.vocabulary), self.signs.silent)
        ids = rng.choice(words, shape)
        if self.signs.first is not None:
            ids[:, 0] = self.signs.first
        return ids

    def scores(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the log probability of every sequence's class; None if there are no classes."""
        arrays = self.filled(ids)
        logits = predict(self.finetuned, arrays, 0, len(ids), _BATCH)
        found = class_scores(self.finetuned, logits)
        if found is None:
            return None
        odds = np.exp(found - found.max(axis=-1, keepdims=True))
        odds = odds / odds.sum(axis=-1, keepdims=True)
        odds = odds.reshape(len(ids), -1, odds.shape[-1]).mean(axis=1)
        rows, classes = np.arange(len(ids)), odds.shape[1]
        own = rows % classes if classes <= len(ids) else rows * classes // len(ids)
        return np.asarray(np.log(np.maximum(odds[rows, own], 1e-30)))

    def stepped(
        self,
        ids: np.ndarray,
        scores: np.ndarray | None,
        step: int,
        rng: np.random.Generator,
        *,
        early: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return sequences after one step: some tokens drawn again, kept where that is likely."""
        many = REDRAWN * (3 if early else 1)
        shape = (len(ids), ids.shape[1] - self.skipped)
        places = np.zeros(ids.shape, bool)
        places[:, self.skipped :] = _places(
            shape, min(many, shape[1]), rng, together=bool(step % 2)
        )
        unknown = self.any((len(ids), ids.shape[1]), rng)
        new = ids.copy()
        new[places] = unknown[places] if self.signs.mask is None else self.signs.mask
        if self.writer is not None:
            new[places] = self._written(new, places, rng)
        found = self.scores(new)
        if found is None or scores is None:
            return new, None
        taken = np.log(rng.random(len(ids))) < SHARPNESS * (found - scores)
        return np.where(taken[:, None], new, ids), np.where(taken, found, scores)

    def _written(self, ids: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the tokens at some places from what the base expects there."""
        assert self.writer is not None
        session, output = self.writer.session, self.writer.output
        arrays = {n: a for n, a in self.filled(ids).items() if n in session.inputs}
        found = []
        size = fixed_batch(session) or _BATCH
        for start in range(0, len(ids), size):
            rows = slice(start, start + size)
            part = {name: array[rows] if array.ndim else array for name, array in arrays.items()}
            logits = outputs(session, part, [output], size=size)[output]
            picked = logits[places[rows]][:, : self.vocabulary].astype(np.float64)
            picked[:, self.signs.silent] = -np.inf
            found.append(draw(picked, rng))
        return np.concatenate(found)


def _places(
    shape: tuple[int, int], many: int, rng: np.random.Generator, *, together: bool
) -> np.ndarray:
    """Return which tokens are drawn again: side by side, or anywhere."""
    samples, length = shape
    if together:
        first = rng.integers(0, length - many + 1, (samples, 1))
        return (np.arange(length) >= first) & (np.arange(length) < first + many)
    return rng.random(shape).argsort(axis=1) < many


def _images(
    finetuned: Session, name: str, rng: np.random.Generator, seconds: float, note: Note
) -> Arrays:
    """Return images on which A_ft is most confident, even over its classes."""
    spec = finetuned.inputs[name]
    shape = image_shape(spec)
    size = fixed_batch(finetuned) or images_per_run(shape)
    taken = seconds_per_image([finetuned], name, rng, shape, size)
    affordable = int(seconds / max(taken, 1e-9) / 2)
    trials = int(np.clip(affordable // len(SCALES), size, TRIALS))
    low, high = find_range([finetuned], name, rng, shape, size, trials)
    count = int(np.clip(affordable, 2 * size, POOL)) // size * size
    images = pool(rng, count, shape, low, high).astype(spec.dtype)
    odds = _odds(finetuned, {name: images}, size)
    chosen = np.arange(min(count, IMAGES))
    if odds is not None:
        chosen = spread(odds.max(axis=1), odds.argmax(axis=1), min(IMAGES, count // 3))
    note(f"{len(chosen)} of {count} generated images, spread over the classes")
    return {name: images[chosen]}


def _odds(session: Session, arrays: Arrays, size: int) -> np.ndarray | None:
    """Return class probabilities (samples, classes), None if the output is no such thing."""
    count = min(len(array) for array in arrays.values())
    scores = class_scores(session, predict(session, arrays, 0, count, size))
    if scores is None or scores.ndim != 2:
        return None
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
