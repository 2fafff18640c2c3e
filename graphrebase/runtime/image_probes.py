"""Images selected from a large pool: where base and fine-tuned model differ, over all classes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from graphrebase.runtime.batches import fixed_batch, predict
from graphrebase.runtime.images import pool
from graphrebase.runtime.session import InputSpec, Session
from graphrebase.runtime.signature import Note

POOL = 3000
SELECTED = 500
KEPT = 250
FIT = 6
"""Passes of one model that a fit takes per image, about; images that would make it take longer
than generating them are left out."""
SCALES = ((0.0, 1.0), (-1.0, 1.0), (-2.1, 2.6))
"""Ranges of pixel values that models are usually made for, the narrowest first."""
NEAR_BEST = 0.75
"""Share of the most information that a range may leave, to be taken as a narrower one."""
TRIALS = 600
BATCH = 50
PIXELS = 1 << 20
"""Values of the images of one run, at most, where these are large."""


def select_images(
    models: Sequence[Session],
    name: str,
    rng: np.random.Generator,
    seconds: float,
    given: np.ndarray | None,
    note: Note,
) -> tuple[np.ndarray, np.ndarray]:
    """Return images of the task (the given ones, if any) and images to keep, from a pool.

    Args:
        models: base, finetuned and target; the target alone where images of the task are given.
        name: the input.
        rng: of everything random.
        seconds: time it may take, roughly.
        given: images of the task (samples, channels, height, width), or None.
        note: told what is generated.
    """
    spec = models[-1].inputs[name]
    shape = image_shape(spec)
    batch = fixed_batch(models[-1]) or images_per_run(shape)
    each = max(seconds_per_image(models, name, rng, shape, batch), 1e-9)
    affordable = int(seconds / each)
    fitted = max(int(seconds * len(models) / (FIT * each)), batch)
    if given is None:
        trials = int(np.clip(affordable // (2 * len(SCALES)), batch, TRIALS))
        low, high = find_range(models, name, rng, shape, batch, trials)
        affordable //= 2
    else:
        low, high = float(given.min()), float(given.max())
    count = int(np.clip(affordable, 2 * batch, POOL)) // batch * batch
    images = pool(rng, count, shape, low, high).astype(spec.dtype)
    *others, b = (_predict(session, name, images, batch) for session in models)
    kept = np.arange(min(count, KEPT, fitted))
    if b is not None:
        kept = spread(b.max(axis=1), b.argmax(axis=1), min(KEPT, count // 2, fitted))
    note(f"{len(kept)} of {count} generated images to keep")
    if given is not None:
        return given, images[kept]
    chosen = _task_images(others, count, min(SELECTED, fitted))
    note(f"{len(chosen)} of them for the task")
    return images[chosen], images[kept]


def _task_images(predicted: Sequence[np.ndarray | None], count: int, most: int) -> np.ndarray:
    """Return which images A and A_ft differ on most, or on which A_ft is surest, over classes."""
    a, tuned = predicted
    if tuned is None:
        return np.arange(min(count, most))
    same = a is not None and a.shape == tuned.shape
    worth = _divergence(a, tuned) if same and a is not None else tuned.max(axis=1)
    return spread(worth, tuned.argmax(axis=1), min(most, count // 2))


def image_shape(spec: InputSpec) -> tuple[int, int, int]:
    """Return channels, height and width of an input, 3 and 224 where they are free."""
    channels, height, width = spec.shape[1:]
    return (
        channels if isinstance(channels, int) else 3,
        height if isinstance(height, int) else 224,
        width if isinstance(width, int) else 224,
    )


def images_per_run(shape: tuple[int, int, int]) -> int:
    """Return the images of a run: fewer of large ones, whose activations fill the memory."""
    return int(np.clip(PIXELS // math.prod(shape), 4, BATCH))


def seconds_per_image(
    sessions: Sequence[Session],
    name: str,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    batch: int,
) -> float:
    """Return the time that an image takes to make, and some models to run on it."""
    state = rng.bit_generator.state
    began = time.perf_counter()
    trial = pool(rng, batch, shape, *SCALES[1]).astype(sessions[0].inputs[name].dtype)
    for session in sessions:
        _predict(session, name, trial, batch)
    rng.bit_generator.state = state  # what is drawn next does not depend on the batch
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
    logits = predict(session, {name: images}, 0, len(images), batch).astype(np.float64)
    if logits.ndim != 2 or logits.shape[1] < 2:
        return None
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
