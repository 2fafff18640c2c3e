"""Rebase: read three models, align, plan, stream the result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from graphrebase import __version__
from graphrebase.align import (
    Alignment,
    AlignmentProblem,
    Evidence,
    align,
    check_fits,
    check_models,
    lineage,
)
from graphrebase.align import load as load_alignment
from graphrebase.align.alignment import OptionValue, is_matrix
from graphrebase.align.anchored import find_anchored
from graphrebase.backend import select
from graphrebase.errors import MismatchError, UsageError
from graphrebase.io import read_model, write_model
from graphrebase.rebase.body import Reader, build_body
from graphrebase.rebase.folded import folded_move
from graphrebase.rebase.pairing import Pairing, build_problem, check_architecture, pair
from graphrebase.rebase.plan import Entry, TaskVector, make_plan, replacements
from graphrebase.structure import Structure, find_structure

METHODS = ("auto", "transfusion", "anchored", "naive")
ROTATED_SCORE = 0.9
"""Score of an orthogonal alignment from which B counts as A in another basis."""
TEMPLATES = ("finetuned", "target")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to align and rebase; the names are those of the command line."""

    method: str = "auto"
    alpha: float = 1.0
    residual: str = "per-point"
    intra: str = "split"
    template: str = "finetuned"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices."""
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("template", self.template, TEMPLATES),
            ("intra", self.intra, ("split", "paper")),
            ("residual", self.residual, ("per-point", "shared")),
        ):
            if value not in allowed:
                raise UsageError(f"unknown {name} '{value}'", hint=f"use {', '.join(allowed)}")
        if not abs(self.alpha) < float("inf"):
            raise UsageError("alpha must be a finite number")


@dataclass(frozen=True, slots=True)
class Result:
    """What a rebase did.

    Attributes:
        method: the method that was used; ``why`` says why, under ``auto``.
        alignment: the maps, with what was measured.
        plan: one entry per role.
        sha256: content hashes of base, finetuned, target and (unless a dry run) output.
        output: the file written, None after a dry run.
    """

    method: str
    why: str
    alpha: float
    template: str
    lineage: str
    alignment: Alignment
    plan: tuple[Entry, ...]
    sha256: Mapping[str, str]
    output: Path | None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of roles per kind and action."""
        table: dict[str, Counter[str]] = {}
        for entry in self.plan:
            table.setdefault(entry.kind, Counter())[entry.action] += 1
        actions = ("moved", "carried", "copied", "refused")
        return {kind: {a: counts[a] for a in actions} for kind, counts in table.items()}


def align_models(base: Path, target: Path, settings: Settings) -> tuple[Alignment, str]:
    """Align two models; returns the alignment and why its method was chosen.

    Raises:
        InputError: a file cannot be read.
        MismatchError: the models are not of one architecture.
        VerificationError: a weight is not finite.
    """
    old, new = (
        find_structure(read_model(path), residual=settings.residual) for path in (base, target)
    )
    check_architecture(old, new, ("base", "target"))
    return _align(old, new, pair(old, new), settings)


def _align(
    base: Structure, target: Structure, pairing: Pairing, settings: Settings
) -> tuple[Alignment, str]:
    problem = build_problem(base, target, pairing)
    method, why = settings.method, "asked for"
    if method == "auto":
        verdict, cosine, _ = lineage(Evidence(problem, select(settings.device)), seed=settings.seed)
        related = verdict in ("identical", "same lineage")
        method = "naive" if related else "transfusion"
        why = (
            f"base and target are of {verdict} weights (median cosine {cosine:.2f} above chance)"
            if related
            else f"base and target share no lineage (median cosine {cosine:.2f} above chance)"
        )
    if method == "anchored":
        return _anchored(base, target, problem, settings), why
    found = align(
        problem,
        method=method,
        intra=settings.intra,
        seed=settings.seed,
        device=settings.device,
        sha256_a=base.model.sha256(),
        sha256_b=target.model.sha256(),
    )
    options = {**found.options, "residual": settings.residual}
    return (
        Alignment(found.maps, found.method, options, found.sha256_a, found.sha256_b, found.details),
        why,
    )


def _anchored(
    base: Structure, target: Structure, problem: AlignmentProblem, settings: Settings
) -> Alignment:
    verdict, cosine, z = lineage(Evidence(problem, select(settings.device)), seed=settings.seed)
    body = build_body(base, target, residual=settings.residual)
    maps, details = find_anchored(body, Reader(base), Reader(target))
    if verdict == "independent" and details.score >= ROTATED_SCORE:
        verdict = "permuted"
    details = replace(details, lineage=verdict, identity_cosine=cosine, identity_z=z)
    options: dict[str, OptionValue] = {"rounds": details.sweeps, "residual": settings.residual}
    hashes = base.model.sha256(), target.model.sha256()
    return Alignment(maps, "anchored", options, *hashes, details)


def rebase(
    base: Path,
    finetuned: Path,
    target: Path,
    output: Path | None,
    settings: Settings,
    *,
    alignment: Path | None = None,
    force: bool = False,
) -> Result:
    """Move the fine-tuning of ``base`` onto ``target``.

    Args:
        base: A, the old base.
        finetuned: A_ft.
        target: B, the new base.
        output: file to write; None only plans.
        settings: method and options.
        alignment: a stored alignment of A and B, in place of ``settings.method``.
        force: replace an existing output.

    Raises:
        InputError: a file cannot be read.
        MismatchError: the models do not fit together, or the alignment is of others.
        VerificationError: a weight is not finite, or overflows the output type.
        OutputError: the output cannot be written.
    """
    models = {
        "base": read_model(base),
        "finetuned": read_model(finetuned),
        "target": read_model(target),
    }
    stored = None if alignment is None else load_alignment(alignment)
    residual = settings.residual
    if stored is not None:
        residual = str(stored.options.get("residual", residual))
    structures = {name: find_structure(model, residual=residual) for name, model in models.items()}
    base_structure, target_structure = structures["base"], structures["target"]
    check_architecture(base_structure, structures["finetuned"], ("base", "fine-tuned"))
    check_architecture(base_structure, target_structure, ("base", "target"))
    pairing = pair(base_structure, target_structure)
    hashes = {name: model.sha256() for name, model in models.items()}
    if stored is not None:
        check_models(stored, hashes["base"], hashes["target"])
        found, why = stored, f"alignment file {alignment}"
    else:
        found, why = _align(base_structure, target_structure, pairing, settings)
    vector = _task_vector(structures, pairing, found, settings, residual)
    plan = make_plan(vector, settings.template)
    if not any(entry.action == "moved" for entry in plan):
        raise MismatchError("nothing of the fine-tuning can be moved onto the target")
    if output is not None:
        template = models[settings.template]
        metadata = {"graphrebase": _provenance(found, settings, hashes)}
        write_model(
            template, output, replacements(vector, plan, settings.template), metadata,
            force=force, protected=[f for m in models.values() for f in m.files],
        )  # fmt: skip
        hashes["output"] = read_model(output).sha256()
    return Result(
        method=found.method,
        why=why,
        alpha=settings.alpha,
        template=settings.template,
        lineage=found.details.lineage if found.details else "unknown",
        alignment=found,
        plan=plan,
        sha256=hashes,
        output=output,
    )


def _task_vector(
    structures: Mapping[str, Structure],
    pairing: Pairing,
    found: Alignment,
    settings: Settings,
    residual: str,
) -> TaskVector:
    """Return the task vector that an alignment moves, after checking that it fits the models."""
    base, finetuned, target = (structures[n] for n in ("base", "finetuned", "target"))
    spaces, folded = pairing.spaces, None
    if any(is_matrix(value) for value in found.maps.values()):
        body = build_body(base, target, residual=residual)
        check_fits(found, body.spaces)
        spaces, folded = body.spaces, folded_move(base, finetuned, target, found, body)
    else:
        check_fits(found, build_problem(base, target, pairing).spaces)
    return TaskVector(
        base,
        finetuned,
        target,
        found,
        {name: space for name, space in spaces.items() if name in found.maps},
        {n: tuple(a if a in found.maps else None for a in x) for n, x in pairing.axes.items()},
        settings.alpha,
        folded,
    )


def _provenance(alignment: Alignment, settings: Settings, hashes: Mapping[str, str]) -> str:
    """Return the provenance entry of the output: everything needed to make it again."""
    record = {
        "tool": f"graphrebase {__version__}",
        "method": alignment.method,
        "options": dict(alignment.options),
        "alpha": settings.alpha,
        "template": settings.template,
        "sha256": dict(hashes),
    }
    return json.dumps(record, sort_keys=True)
