"""Which method aligns two models, and the alignment that it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from graphrebase.align import (
    Alignment,
    AlignmentProblem,
    Details,
    align,
)
from graphrebase.align.alignment import OptionValue
from graphrebase.align.anchored import find_anchored
from graphrebase.errors import MismatchError, UsageError
from graphrebase.io import read_model
from graphrebase.rebase.body import build_body
from graphrebase.rebase.pairing import (
    Pairing,
    build_problem,
    check_architecture,
    check_family,
    pair,
    same_sizes,
    sizes,
)
from graphrebase.rebase.reader import Reader
from graphrebase.rebase.settings import Settings
from graphrebase.structure import Structure, find_structure

ROTATED_SCORE = 0.9
"""Score of an orthogonal alignment from which B counts as A in another basis."""
PERMUTED_MARGIN = 0.05
"""What rotations must explain beyond permutations, to be taken in their place."""


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
    if not same_sizes(old, new):
        check_family(old, new, ("base", "target"))
        raise MismatchError(
            f"an alignment needs models of one size: the base has {sizes(old)}, "
            f"the target {sizes(new)}",
            where=f"{base} and {target}",
            hint="use `rebase`, whose method fit maps one size to another",
        )
    check_architecture(old, new, ("base", "target"))
    pairing = pair(old, new)
    choice = choose(build_problem(old, new, pairing), settings)
    return align_by(old, new, pairing, settings, choice), choice.why


@dataclass(frozen=True, slots=True)
class Choice:
    """A method, why it was chosen, and the lineage that the plain weights show."""

    method: str
    why: str
    known: Details | None


def choose(problem: AlignmentProblem, settings: Settings) -> Choice:
    """Return the method asked for; under `auto`, naive for relatives and `anchored` otherwise."""
    if settings.method not in ("auto", "anchored", "fit"):
        return Choice(settings.method, "asked for", None)
    known = align(problem, method="naive", seed=settings.seed, device=settings.device).details
    if settings.method != "auto" or known is None:
        return Choice(settings.method, "asked for", known)
    cosine = f"(median cosine {round(known.identity_cosine, 2) + 0.0:.2f} above chance)"
    if known.lineage in ("identical", "same lineage"):
        return Choice("naive", f"base and target are of {known.lineage} weights {cosine}", known)
    return Choice("anchored", f"base and target share no lineage {cosine}", known)


def align_by(
    base: Structure, target: Structure, pairing: Pairing, settings: Settings, choice: Choice
) -> Alignment:
    """Return the alignment of two models by the method chosen (`fit` is in ``task``).

    Raises:
        MismatchError: the method cannot line these models up.
        VerificationError: a weight is not finite.
    """
    hashes = base.model.sha256(), target.model.sha256()
    if choice.method == "anchored":
        body = build_body(base, target, residual=settings.residual)
        maps, details = find_anchored(body, Reader(base), Reader(target))
        rounds: dict[str, OptionValue] = {"rounds": details.sweeps, "residual": settings.residual}
        details = with_lineage(details, choice.known)
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


def with_lineage(details: Details, known: Details | None) -> Details:
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


def is_permuted(found: Alignment) -> bool:
    """Return whether B is A in another basis."""
    return found.details is not None and found.details.lineage == "permuted"


def same_in_another_basis(
    base: Structure, target: Structure, pairing: Pairing, settings: Settings, rotated: Alignment
) -> tuple[Alignment, str]:
    """Return permutations where they explain B as well as rotations do: they are exact."""
    choice = Choice("transfusion", "target is the base in another order", None)
    permuted = align_by(base, target, pairing, settings, choice)
    scores = [found.details.score if found.details else 0.0 for found in (permuted, rotated)]
    if scores[0] >= scores[1] - PERMUTED_MARGIN:
        return permuted, choice.why
    return rotated, "target is the base in another basis"
