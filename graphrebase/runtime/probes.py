"""Probes made without any data: what a fine-tuning changes is looked for in generated inputs.

Language models: sequences sampled from the model itself, token by token where it is causal, by
re-drawing single tokens (Gibbs sampling) where it is not. Images: those of a large pool on which
base and fine-tuned model differ most, spread over classes. Anything else: random inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphrebase.graph import Graph
from graphrebase.runtime.images import pool
from graphrebase.runtime.session import InputSpec, Session
from graphrebase.runtime.synthetic import length_limit, synthetic_inputs, table_limit

SEQUENCES = 120
LENGTH = 64
POOL = 3000
SELECTED = 500
KEPT = 250
OTHERS = 256
SECONDS = 120.0
"""Time that generating may take; long runs are cut to it."""
SWEEPS = 12
REDRAWN = 0.15
SCALES = ((0.0, 1.0), (-1.0, 1.0), (-2.1, 2.6))
"""Ranges of pixel values that models are usually made for, the narrowest first."""
NEAR_BEST = 0.75
"""Share of the most information that a range may leave, to be taken as a narrower one."""
TRIALS = 600
_BATCH = 50
PIXELS = 1 << 20
"""Values of the images of one run, at most, where these are large."""
Arrays = dict[str, np.ndarray]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Probes:
    """Generated inputs, ready to run.

    Attributes:
        task: where the fine-tuning acts.
        keep: where B must stay as it is.
        kind: ``text``, ``image`` or ``other``.
    """

    task: Arrays
    keep: Arrays
    kind: str


def generate(
    base: Session,
    finetuned: Session,
    target: Session,
    graph: Graph,
    target_graph: Graph | None = None,
    *,
    seed: int = 0,
    seconds: float = SECONDS,
    length: int | None = None,
    given: Mapping[str, np.ndarray] | None = None,
    note: Note = lambda _: None,
) -> Probes:
    """Return probes and keep probes for three models of one signature.

    Args:
        base: A.
        finetuned: A_ft.
        target: B.
        graph: A_ft's graph, for the sizes of its tables.
        target_graph: B's graph, where its tables may have other sizes.
        seed: of everything random.
        seconds: time it may take, roughly.
        length: tokens of a sequence, where the caller has a preference.
        given: inputs of the task; images of it are then not made, and the others have their range.
        note: told what is generated.
    """
    rng = np.random.default_rng(seed)
    tokens, image = token_input(finetuned), image_input(finetuned)
    kind = probe_kind(finetuned, graph, seed=seed)
    if kind == "text" and tokens is not None:
        task, keep = (
            sample(m, tokens, own, rng, seconds=seconds / 2, length=length, note=note)
            for m, own in ((finetuned, graph), (target, target_graph or graph))
        )
        return Probes(task, keep, "text")
    if kind == "image" and image is not None:
        real = None if given is None else given.get(image)
        return _images((base, finetuned, target), image, rng, seconds, real, note)
    note(f"{OTHERS} random inputs")
    first, second = (_random(finetuned, graph, seed + k) for k in (0, 1))
    return Probes(first, second, "other")


def probe_kind(session: Session, graph: Graph, *, seed: int = 0) -> str:
    """Return how probes for a model are made: ``text``, ``image`` or ``other``."""
    if token_input(session) is not None:
        return "text" if _is_language(session, graph, seed) else "other"
    single = image_input(session) is not None and len(session.inputs) == 1
    return "image" if single else "other"


def token_input(session: Session) -> str | None:
    """Return the input that holds tokens: integer, (samples, tokens), no mask, type or position."""
    helpers = ("mask", "type", "position", "label", "past", "cache")
    for name, spec in session.inputs.items():
        plain = not any(word in name.lower() for word in helpers)
        if spec.dtype.kind in "iu" and len(spec.shape) == 2 and plain:
            return name
    return None


def image_input(session: Session) -> str | None:
    """Return the input that holds images: the only float one of rank 4."""
    found = [n for n, s in session.inputs.items() if s.dtype.kind == "f" and len(s.shape) == 4]
    return found[0] if len(found) == 1 else None


def sequence_length(session: Session, graph: Graph) -> int:
    """Return the length of generated sequences: the declared one, or what the tables allow."""
    declared = [s.shape[1] for s in session.inputs.values() if len(s.shape) == 2]
    fixed = next((d for d in declared if isinstance(d, int)), None)
    limit = length_limit(graph)
    return fixed or min(LENGTH, limit or LENGTH)


def _random(session: Session, graph: Graph, seed: int) -> Arrays:
    length = min(sequence_length(session, graph), 32)
    vocabulary = table_limit(graph)
    return synthetic_inputs(
        session, batch=OTHERS, length=length, seed=seed, vocabulary=vocabulary, cache="empty"
    )


def _logits(session: Session, inputs: Arrays) -> np.ndarray:
    name = "logits" if "logits" in session.outputs else session.outputs[0]
    return session.run(inputs, outputs=[name])[name].astype(np.float64)


def _is_language(session: Session, graph: Graph, seed: int) -> bool:
    """Return whether the model gives one distribution over its vocabulary per token."""
    length = sequence_length(session, graph)
    inputs = synthetic_inputs(session, batch=1, length=length, seed=seed, cache="empty")
    found = _logits(session, inputs)
    return found.ndim == 3 and found.shape[-1] >= table_limit(graph)


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
    """Return sequences drawn from a language model, with masks and positions, ready to run."""
    vocabulary, length = table_limit(graph), length or sequence_length(session, graph)
    batch = session.inputs[tokens].shape[0]
    count = batch if isinstance(batch, int) else SEQUENCES
    start = synthetic_inputs(
        session, batch=count, length=length, seed=0, vocabulary=vocabulary, cache="empty"
    )
    start[tokens] = rng.integers(0, vocabulary, start[tokens].shape).astype(start[tokens].dtype)
    began = time.perf_counter()
    causal = _is_causal(session, tokens, start, vocabulary)
    steps = length if causal else SWEEPS
    affordable = seconds / max((time.perf_counter() - began) / 2 * steps, 1e-9)
    if affordable < 1 and not isinstance(batch, int):
        count = max(4, int(count * affordable))
        start = {name: array[:count] for name, array in start.items()}
    note(f"{count} sequences of {length} tokens from the model itself")
    draw = _draw_forward if causal else _redraw
    return draw(session, tokens, start, vocabulary, rng)


def _is_causal(session: Session, tokens: str, inputs: Arrays, vocabulary: int) -> bool:
    changed = dict(inputs)
    changed[tokens] = inputs[tokens].copy()
    changed[tokens][:, -1] = (changed[tokens][:, -1] + 1) % vocabulary
    one, two = (_logits(session, x)[:, :-1] for x in (inputs, changed))
    return bool(np.allclose(one, two, atol=1e-4 * max(float(np.abs(one).max()), 1e-6)))


def _draw_forward(
    session: Session, tokens: str, inputs: Arrays, vocabulary: int, rng: np.random.Generator
) -> Arrays:
    """Draw token after token; what follows is not seen by a causal model."""
    for place in range(1, inputs[tokens].shape[1]):
        logits = _logits(session, inputs)[:, place - 1, :vocabulary]
        inputs[tokens][:, place] = draw(logits, rng)
    return inputs


def _redraw(
    session: Session, tokens: str, inputs: Arrays, vocabulary: int, rng: np.random.Generator
) -> Arrays:
    """Draw a share of the tokens again and again, each time from random ones in their place."""
    ids = inputs[tokens]
    for _ in range(SWEEPS):
        places = rng.random(ids.shape) < REDRAWN
        ids[places] = rng.integers(0, vocabulary, int(places.sum()))
        logits = _logits(session, inputs)[..., :vocabulary]
        ids[places] = draw(logits[places], rng)
    return inputs


def draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one index per row, drawn from its softmax (Gumbel trick)."""
    return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1))


def _images(
    models: Sequence[Session],
    name: str,
    rng: np.random.Generator,
    seconds: float,
    given: np.ndarray | None,
    note: Note,
) -> Probes:
    """Return images selected from a pool; with given images of the task, only those to keep.

    Args:
        models: base, finetuned and target.
        name: the input.
        rng: of everything random.
        seconds: time it may take, roughly.
        given: images of the task (samples, channels, height, width), or None.
        note: told what is generated.
    """
    spec = models[1].inputs[name]
    shape = _image_shape(spec)
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else _batch(shape)
    asked = models if given is None else models[2:]
    affordable = int(seconds / max(_seconds_per_image(asked, name, rng, shape, batch), 1e-9))
    if given is None:
        trials = int(np.clip(affordable // (2 * len(SCALES)), batch, TRIALS))
        low, high = find_range(asked, name, rng, shape, batch, trials)
        affordable //= 2
    else:
        low, high = float(given.min()), float(given.max())
    count = int(np.clip(affordable, 2 * batch, POOL)) // batch * batch
    images = pool(rng, count, shape, low, high).astype(spec.dtype)
    *others, b = (_predict(session, name, images, batch) for session in asked)
    kept = np.arange(min(count, KEPT))
    if b is not None:
        kept = spread(b.max(axis=1), b.argmax(axis=1), min(KEPT, count // 2))
    note(f"{len(kept)} of {count} generated images to keep")
    if given is not None:
        return Probes({name: given}, {name: images[kept]}, "image")
    chosen = _task_images(others, count)
    note(f"{len(chosen)} of them for the task")
    return Probes({name: images[chosen]}, {name: images[kept]}, "image")


def _task_images(predicted: Sequence[np.ndarray | None], count: int) -> np.ndarray:
    """Return which images A and A_ft differ on most, or on which A_ft is surest, over classes."""
    a, tuned = predicted
    if tuned is None:
        return np.arange(min(count, SELECTED))
    same = a is not None and a.shape == tuned.shape
    worth = _divergence(a, tuned) if same and a is not None else tuned.max(axis=1)
    return spread(worth, tuned.argmax(axis=1), min(SELECTED, count // 2))


def _image_shape(spec: InputSpec) -> tuple[int, int, int]:
    channels, height, width = spec.shape[1:]
    return (
        channels if isinstance(channels, int) else 3,
        height if isinstance(height, int) else 224,
        width if isinstance(width, int) else 224,
    )


def _batch(shape: tuple[int, int, int]) -> int:
    """Return the images of a run: fewer of large ones, whose activations fill the memory."""
    return int(np.clip(PIXELS // math.prod(shape), 4, _BATCH))


def _seconds_per_image(
    sessions: Sequence[Session],
    name: str,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    batch: int,
) -> float:
    trial = pool(rng, batch, shape, *SCALES[1]).astype(sessions[0].inputs[name].dtype)
    began = time.perf_counter()
    for session in sessions:
        _predict(session, name, trial, batch)
    return (time.perf_counter() - began) / batch


def find_range(
    sessions: Sequence[Session],
    name: str,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    batch: int,
    trials: int = TRIALS,
) -> tuple[float, float]:
    """Return the range of pixel values that the models were made for, as far as it shows.

    On images of the right contrast classifiers tell most apart: their predictions share most
    information with the image, H(mean p) - mean H(p). A wider range loses little of it (pixels
    saturate), a narrower or shifted one much, so the narrowest of those near the best is taken.
    Confidence alone misleads: out of range, a model is sure of one class.
    """
    state = rng.bit_generator.state
    informed = []
    for low, high in SCALES:
        rng.bit_generator.state = state
        images = pool(rng, max(trials // batch, 1) * batch, shape, low, high)
        images = images.astype(sessions[0].inputs[name].dtype)
        found = [_predict(session, name, images, batch) for session in sessions]
        informed.append(sum(_information(p) for p in found if p is not None))
    least = NEAR_BEST * max(informed)
    return next(s for s, found in zip(SCALES, informed, strict=True) if found >= least)


def _information(p: np.ndarray) -> float:
    """Return the mutual information (nats) of images and classes under predictions (n, classes)."""
    return float(_entropy(p.mean(axis=0)) - _entropy(p).mean())


def _entropy(p: np.ndarray) -> np.ndarray:
    return np.asarray(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1))


def _predict(session: Session, name: str, images: np.ndarray, batch: int) -> np.ndarray | None:
    """Return class probabilities (samples, classes), None if the output is no such thing."""
    rows = [_logits(session, {name: images[i : i + batch]}) for i in range(0, len(images), batch)]
    if rows[0].ndim != 2 or rows[0].shape[1] < 2:
        return None
    logits = np.concatenate(rows)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of each row."""
    middle = (p + q) / 2
    parts = (np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / middle), 0.0) for x in (p, q))
    return np.asarray(sum(part.sum(axis=1) for part in parts) / 2)


def spread(worth: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the most worthy, class by class in turn, (count,)."""
    order = np.argsort(-worth, kind="stable")
    turn = np.empty(len(order), np.int64)
    seen: dict[int, int] = {}
    for index in order:
        label = int(classes[index])
        turn[index] = seen.get(label, 0)
        seen[label] = turn[index] + 1
    return np.lexsort((-worth, turn))[:count]
