"""Probes made without any data: what a fine-tuning changes is looked for in generated inputs.

Language models: sequences sampled from the model itself (`text_probes`). Images: those of a large
pool on which base and fine-tuned model differ most (`image_probes`). Anything else: random inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from graphrebase.graph import Graph
from graphrebase.runtime.image_probes import select_images
from graphrebase.runtime.session import Session
from graphrebase.runtime.signature import (
    Arrays,
    Note,
    image_input,
    logits_of,
    sequence_length,
    token_input,
)
from graphrebase.runtime.synthetic import synthetic_inputs, table_limit
from graphrebase.runtime.text_probes import is_causal, sample

OTHERS = 256
SECONDS = 120.0
"""Time that generating may take; long runs are cut to it."""
PLANNED = 0.85
"""Share of the time that is planned for: a trial's speed is not quite that of what follows."""


Opener = Callable[[str], Session]
"""Opens one of the models by its name."""


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
    opened: Opener,
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
        opened: opens ``base``, ``finetuned`` or ``target``; large models are not opened together
            where that can be avoided.
        graph: A_ft's graph, for the sizes of its tables.
        target_graph: B's graph, where its tables may have other sizes.
        seed: of everything random.
        seconds: time it may take.
        length: tokens of a sequence, where the caller has a preference.
        given: inputs of the task; images of it are then not made, and the others have their range.
        note: told what is generated.
    """
    rng, seconds = np.random.default_rng(seed), PLANNED * seconds
    finetuned = opened("finetuned")
    tokens, image = token_input(finetuned), image_input(finetuned)
    kind = probe_kind(finetuned, graph, seed=seed)
    if kind == "text" and tokens is not None:
        drawn = partial(sample, seconds=seconds / 2, length=length, note=note)
        task = drawn(finetuned, tokens, graph, rng)
        del finetuned
        keep = drawn(opened("target"), tokens, target_graph or graph, rng)
        return Probes(task, keep, "text")
    if kind == "image" and image is not None:
        real = None if given is None else given.get(image)
        del finetuned
        asked = ("base", "finetuned", "target") if real is None else ("target",)
        models = [opened(model) for model in asked]
        chosen, kept = select_images(models, image, rng, seconds, real, note)
        return Probes({image: chosen}, {image: kept}, "image")
    note(f"{OTHERS} random inputs")
    first, second = (_random(finetuned, graph, seed + k) for k in (0, 1))
    return Probes(first, second, "other")


def probe_kind(session: Session, graph: Graph, *, seed: int = 0) -> str:
    """Return how probes for a model are made: ``text``, ``image`` or ``other``."""
    if token_input(session) is not None:
        return "text" if _is_language(session, graph, seed) else "other"
    single = image_input(session) is not None and len(session.inputs) == 1
    return "image" if single else "other"


def fills_masks(session: Session, graph: Graph) -> bool:
    """Return whether a language model reads what follows a token too."""
    tokens = token_input(session)
    if tokens is None or not _is_language(session, graph, seed=0):
        return False
    return not is_causal(session, tokens, _one_text(session, graph, 0), table_limit(graph))


def _random(session: Session, graph: Graph, seed: int) -> Arrays:
    length = min(sequence_length(session, graph), 32)
    vocabulary = table_limit(graph)
    return synthetic_inputs(
        session, batch=OTHERS, length=length, seed=seed, vocabulary=vocabulary, cache="empty"
    )


def _is_language(session: Session, graph: Graph, seed: int) -> bool:
    """Return whether the model gives one distribution over its vocabulary per token."""
    found = logits_of(session, _one_text(session, graph, seed))
    return found.ndim == 3 and found.shape[-1] >= table_limit(graph)


def _one_text(session: Session, graph: Graph, seed: int) -> Arrays:
    length, vocabulary = sequence_length(session, graph), table_limit(graph)
    return synthetic_inputs(
        session, batch=1, length=length, seed=seed, vocabulary=vocabulary, cache="empty"
    )
