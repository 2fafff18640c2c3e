"""Training several models at once: a process per base and all that continues it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from transport_pairs.build import Workshop
from transport_pairs.catalogue import Pair, Recipe


def chains(recipes: Mapping[str, Recipe], wanted: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the wanted models in groups that can be trained side by side.

    A group are the models that come from one base, in an order in which each finds its start.
    """
    found: dict[str, list[str]] = {}
    place = {name: number for number, name in enumerate(recipes)}
    for name in sorted(set(wanted), key=place.__getitem__):
        found.setdefault(_first(recipes, name), []).append(name)
    return [tuple(names) for names in found.values()]


def _first(recipes: Mapping[str, Recipe], name: str) -> str:
    start = recipes[name].start
    return name if start is None else _first(recipes, start)


def train_at_once(workshop: Workshop, pairs: Iterable[Pair], jobs: int) -> None:
    """Train what pairs need and the workshop lacks, in `jobs` processes."""
    wanted = [name for pair in pairs for name in pair.models.values()]
    groups = chains(workshop.recipes, wanted)
    place = (workshop.root, workshop.name, workshop.device)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_train, *place, torch.get_num_threads(), g) for g in groups]
        for future in as_completed(running):
            future.result()


def _train(root: Path, profile: str, device: str, threads: int, names: tuple[str, ...]) -> None:
    torch.set_num_threads(threads)
    workshop = Workshop(root, profile, device)
    for name in names:
        workshop.model(name)
