"""Which models are trained and which pairs they make: the table that everything follows.

v1 --------------------> v1_ft           the old domain, then the task
v2 (own seed) ---------> v2_ft           the new domain; the upper bound
v2_lineage (of v1) ----> v2_lineage_ft   v1 trained further on the new domain
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model comes to be.

    Attributes:
        architecture: of `models.ARCHITECTURES`.
        domain: of `domains.domains`.
        steps: of the optimizer, in the quick profile.
        rate: peak learning rate.
        batch: samples per step.
        seed: of weights and data.
        start: the model it continues; None: random weights.
    """

    architecture: str
    domain: str
    steps: int
    rate: float
    batch: int
    seed: int
    start: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A release pair with a task.

    Attributes:
        name: of the folder.
        models: the recipe of each file but the extension; keys as in the module's picture.
        task: domain of the task.
        keep: domain of v2.
        kind: `independent`, `head` (a head that no base has), `resized` (wider, deeper) or
            `exporter` (an independent pair again, written by another exporter).
        probes: how many unlabelled inputs to store.
        exporter: of `exporting.OPSETS`.
    """

    name: str
    models: Mapping[str, str]
    task: str
    keep: str
    kind: str
    probes: int
    exporter: str = "ts17"


@dataclass(frozen=True, slots=True)
class Family:
    """What one architecture is trained on and how long."""

    old: str  # domain of v1
    new: str  # domain of v2
    tasks: tuple[str, ...]
    steps: int
    rate: float
    batch: int
    new_steps: float = 1.25  # of v2, as a multiple: its domain is wider
    tuning_steps: int = 150
    tuning_rate: float = 4e-4
    probes: int = 256
    lineage: bool = True
    resized: tuple[str, ...] = ()  # other architectures for v2, with the first task
    heads: tuple[str, ...] = ()  # architectures with a new head, in place of a shared one


FAMILIES = {
    "vit": Family(
        "images-old",
        "images-new",
        ("digits", "turned", "outlines"),
        steps=800,
        rate=2e-3,
        batch=64,
        new_steps=1.75,
        tuning_steps=200,
        resized=("vit-wide", "vit-deep"),
    ),
    "gpt": Family(
        "text-old",
        "text-new",
        ("code", "licence", "headers"),
        steps=800,
        rate=2e-3,
        batch=16,
        probes=64,
        resized=("gpt-wide", "gpt-deep"),
    ),
    "llama": Family(
        *("text-old", "text-new", ("code", "licence")),
        steps=700,
        rate=2e-3,
        batch=16,
        probes=64,
        lineage=False,
    ),
    "bert": Family(
        *("masked-old", "masked-new", ("source",)),
        steps=1500,
        rate=2e-3,
        batch=24,
        new_steps=1.0,
        tuning_steps=200,
        lineage=False,
        heads=("bert-cls", "bert-mean"),
    ),
    "masked": Family(
        *("masked-old", "masked-new", ("notes",)),
        steps=1500,
        rate=2e-3,
        batch=24,
        new_steps=1.0,
        tuning_steps=300,
        lineage=False,
    ),
}
FAMILY_NUMBER = {name: number for number, name in enumerate(FAMILIES)}


def _bases(name: str, family: Family, seed: int) -> dict[str, Recipe]:
    """Return the recipes of the bases of a family and seed."""
    number = 1000 * seed + 100 * FAMILY_NUMBER[name]
    old = Recipe(name, family.old, family.steps, family.rate, family.batch, number + 1)
    new = replace(
        old, domain=family.new, steps=round(family.steps * family.new_steps), seed=number + 2
    )
    found = {f"{name}-v1-s{seed}": old, f"{name}-v2-s{seed}": new}
    if family.lineage:
        found[f"{name}-lineage-s{seed}"] = replace(
            new,
            steps=family.steps // 2,
            rate=family.rate / 2,
            seed=number + 3,
            start=f"{name}-v1-s{seed}",
        )
    for place, other in enumerate(family.resized):
        found[f"{other}-v2-s{seed}"] = replace(new, architecture=other, seed=number + 4 + place)
    return found


def recipes() -> dict[str, Recipe]:
    """Return every model by name; one that continues another comes after it."""
    found: dict[str, Recipe] = {}
    for seed in SEEDS:
        for name, family in FAMILIES.items():
            bases = _bases(name, family, seed)
            found |= bases
            for base, recipe in bases.items():
                for task in family.tasks:
                    for head in family.heads or (recipe.architecture,):
                        found[tuned_name(base, task, head if family.heads else "")] = Recipe(
                            head, task, family.tuning_steps, family.tuning_rate,
                            family.batch, recipe.seed + 50, start=base,
                        )  # fmt: skip
    return found


def tuned_name(base: str, task: str, head: str = "") -> str:
    """Return the name of a base fine-tuned on a task."""
    return f"{base}-{task}" + (f"-{head}" if head else "")


def pairs() -> tuple[Pair, ...]:
    """Return all pairs, the most informative first.

    A pair with a lineage comes twice: first without v2_lineage, which takes longer.
    """
    found = [
        pair
        for seed in SEEDS
        for maker in (_plain_pairs, _resized_pairs, _exporter_pairs, _lineage_pairs)
        for name, family in FAMILIES.items()
        for pair in maker(name, family, seed)
    ]
    return tuple(found)


def _files(bases: Mapping[str, str], task: str, head: str = "") -> dict[str, str]:
    tuned = {f"{file}_ft": tuned_name(base, task, head) for file, base in bases.items()}
    return {**bases, **tuned}


def _plain_pairs(name: str, family: Family, seed: int) -> Iterator[Pair]:
    bases = {"v1": f"{name}-v1-s{seed}", "v2": f"{name}-v2-s{seed}"}
    for task in family.tasks:
        for head in family.heads or ("",):
            kind = "head" if head else "independent"
            files, folder = _files(bases, task, head), f"{head or name}-{task}-s{seed}"
            yield Pair(folder, files, task, family.new, kind, family.probes)


def _exporter_pairs(name: str, family: Family, seed: int) -> Iterator[Pair]:
    """Yield the first pair of a family of seed 0 again, exported by dynamo."""
    if seed == 0 and family.lineage:
        first = next(_plain_pairs(name, family, seed))
        folder = f"{name}-{first.task}-dy18-s{seed}"
        yield replace(first, name=folder, kind="exporter", exporter="dy18")


def _lineage_pairs(name: str, family: Family, seed: int) -> Iterator[Pair]:
    """Yield the plain pairs again, with v2_lineage."""
    if family.lineage:
        for pair in _plain_pairs(name, family, seed):
            more = _files({"v2_lineage": f"{name}-lineage-s{seed}"}, pair.task)
            yield replace(pair, models={**pair.models, **more})


def _resized_pairs(name: str, family: Family, seed: int) -> Iterator[Pair]:
    task = family.tasks[0]
    for other in family.resized:
        files = _files({"v1": f"{name}-v1-s{seed}", "v2": f"{other}-v2-s{seed}"}, task)
        yield Pair(f"{other}-{task}-s{seed}", files, task, family.new, "resized", family.probes)
