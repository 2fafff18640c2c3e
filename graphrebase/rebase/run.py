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
    Details,
    align,
    check_fits,
    check_models,
)
from graphrebase.align import load as load_alignment
from graphrebase.align.alignment import OptionValue, is_matrix
from graphrebase.align.anchored import find_anchored
from graphrebase.errors import InputError, MismatchError, UsageError, VerificationError
from graphrebase.io import read_model, write_model
from graphrebase.rebase.body import Reader, build_body
from graphrebase.rebase.fitting import can_probe, fit_models
from graphrebase.rebase.folded import folded_move
from graphrebase.rebase.pairing import Pairing, build_problem, check_architecture, pair
from graphrebase.rebase.plan import Entry, TaskVector, make_plan, replacements
from graphrebase.structure import Structure, find_structure

METHODS = ("auto", "transfusion", "anchored", "fit", "naive")
ROTATED_SCORE = 0.9
"""Score of an orthogonal alignment from which B counts as A in another basis."""
PERMUTED_MARGIN = 0.05
"""What rotations must explain beyond permutations, to be taken in their place."""
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
    probes: Path | None = None
    keep_data: Path | None = None

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
        UsageError: the method needs a fine-tuned model.
        InputError: a file cannot be read.
        MismatchError: the models are not of one architecture.
        VerificationError: a weight is not finite.
    """
    if settings.method == "fit":
        raise UsageError(
            "fit depends on the fine-tuned model", hint="use `rebase`, or --method anchored"
        )
    old, new = (
        find_structure(read_model(path), residual=settings.residual) for path in (base, target)
    )
    check_architecture(old, new, ("base", "target"))
    pairing = pair(old, new)
    choice = _choose(build_problem(old, new, pairing), settings)
    return _align(old, new, pairing, settings, choice), choice.why


@dataclass(frozen=True, slots=True)
class _Choice:
    """A method, why it was chosen, and the lineage that the plain weights show."""

    method: str
    why: str
    known: Details | None


def _choose(problem: AlignmentProblem, settings: Settings) -> _Choice:
    """Return the method asked for; under `auto`, naive for relatives and `anchored` otherwise."""
    if settings.method not in ("auto", "anchored", "fit"):
        return _Choice(settings.method, "asked for", None)
    known = align(problem, method="naive", seed=settings.seed, device=settings.device).details
    if settings.method != "auto" or known is None:
        return _Choice(settings.method, "asked for", known)
    cosine = f"(median cosine {known.identity_cosine:.2f} above chance)"
    if known.lineage in ("identical", "same lineage"):
        return _Choice("naive", f"base and target are of {known.lineage} weights {cosine}", known)
    return _Choice("anchored", f"base and target share no lineage {cosine}", known)


def _align(
    base: Structure, target: Structure, pairing: Pairing, settings: Settings, choice: _Choice
) -> Alignment:
    hashes = base.model.sha256(), target.model.sha256()
    if choice.method == "anchored":
        body = build_body(base, target, residual=settings.residual)
        maps, details = find_anchored(body, Reader(base), Reader(target))
        rounds: dict[str, OptionValue] = {"rounds": details.sweeps, "residual": settings.residual}
        details = _with_lineage(details, choice.known)
        return Alignment(maps, "anchored", rounds, *hashes, details)
    found = align(
        build_problem(base, target, pairing),
        method=choice.method,
        intra=settings.intra,
        seed=settings.seed,
        device=settings.device,
        sha256_a=hashes[0],
        sha256_b=hashes[1],
    )
    return replace(found, options={**found.options, "residual": settings.residual})


def _with_lineage(details: Details, known: Details | None) -> Details:
    """Return details with the lineage that the plain weights show."""
    if known is None:
        return details
    verdict = known.lineage
    if verdict == "independent" and details.score >= ROTATED_SCORE:
        verdict = "permuted"
    return replace(
        details,
        lineage=verdict,
        identity_cosine=known.identity_cosine,
        identity_z=known.identity_z,
    )


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
    found, why, vector = _task(structures, pairing, settings, stored, hashes, residual)
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


def _task(
    structures: Mapping[str, Structure],
    pairing: Pairing,
    settings: Settings,
    stored: Alignment | None,
    hashes: Mapping[str, str],
    residual: str,
) -> tuple[Alignment, str, TaskVector]:
    """Return the alignment, why its method, and the task vector that it moves."""
    base, target = structures["base"], structures["target"]
    if stored is not None:
        check_models(stored, hashes["base"], hashes["target"])
        vector = _task_vector(structures, pairing, stored, settings, residual)
        return stored, "an alignment file was given", vector
    choice = _choose(build_problem(base, target, pairing), settings)
    if choice.method == "fit":
        found, vector = _fit(structures, pairing, settings, choice)
        return found, choice.why, vector
    if settings.method == "auto" and choice.method == "anchored":
        try:
            choice = _fit_if_it_runs(structures, settings, choice)
            if choice.method == "fit":
                found, vector = _fit(structures, pairing, settings, choice)
                if not _is_permuted(found):
                    return found, choice.why, vector
                choice = replace(choice, method="anchored")
        except (UsageError, InputError, MismatchError, VerificationError) as error:
            if settings.probes is not None or settings.keep_data is not None:
                raise
            why = f"{choice.why}; fit was not possible: {error.message}"
            choice = replace(choice, method="anchored", why=why)
    found, why = _align(base, target, pairing, settings, choice), choice.why
    if settings.method == "auto" and _is_permuted(found):
        found, why = _same_in_another_basis(base, target, pairing, settings, found)
    return found, why, _task_vector(structures, pairing, found, settings, residual)


def _is_permuted(found: Alignment) -> bool:
    """Return whether B is A in another basis."""
    return found.details is not None and found.details.lineage == "permuted"


def _same_in_another_basis(
    base: Structure, target: Structure, pairing: Pairing, settings: Settings, rotated: Alignment
) -> tuple[Alignment, str]:
    """Return permutations where they explain B as well as rotations do: they are exact."""
    choice = _Choice("transfusion", "target is the base in another order", None)
    permuted = _align(base, target, pairing, settings, choice)
    scores = [found.details.score if found.details else 0.0 for found in (permuted, rotated)]
    if scores[0] >= scores[1] - PERMUTED_MARGIN:
        return permuted, choice.why
    return rotated, "target is the base in another basis"


def _fit_if_it_runs(
    structures: Mapping[str, Structure], settings: Settings, choice: _Choice
) -> _Choice:
    """Return the choice of `fit`, if there are probes for it or probes worth making."""
    if settings.residual == "shared":
        return replace(choice, why=f"{choice.why}; fit needs a map per residual point")
    if settings.probes is None and not can_probe(structures["finetuned"]):
        return replace(choice, why=f"{choice.why}; fit needs --probes for this kind of model")
    return replace(choice, method="fit", why=f"{choice.why}, and the models run here")


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


def _fit(
    structures: Mapping[str, Structure], pairing: Pairing, settings: Settings, choice: _Choice
) -> tuple[Alignment, TaskVector]:
    """Return the alignment of a fit, and what it solved for as a task vector."""
    if settings.residual == "shared":
        raise UsageError("fit needs a map per residual point", hint="use --residual per-point")
    move, details = fit_models(structures, settings.probes, settings.keep_data, settings.seed)
    found = Alignment(
        move.folded.alignment.maps,
        "fit",
        {"rounds": details.sweeps, "residual": "per-point"},
        structures["base"].model.sha256(),
        structures["target"].model.sha256(),
        _with_lineage(details, choice.known),
    )
    spaces = {n: s for n, s in move.folded.body.spaces.items() if n in found.maps}
    vector = TaskVector(
        structures["base"],
        structures["finetuned"],
        structures["target"],
        found,
        spaces,
        {n: tuple(a if a in spaces else None for a in x) for n, x in pairing.axes.items()},
        settings.alpha,
        move,
    )
    return found, vector


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
