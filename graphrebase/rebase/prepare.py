"""Everything of a rebase before the output: alignment, task vector, plan, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from graphrebase.align import Alignment
from graphrebase.align import load as load_alignment
from graphrebase.errors import MismatchError, UsageError
from graphrebase.io import check_target, read_model
from graphrebase.progress import Progress, silent
from graphrebase.rebase.fitting import ProbeSource, Probing
from graphrebase.rebase.given import Given, least_probes, read_given
from graphrebase.rebase.pairing import check_architecture, pair
from graphrebase.rebase.plan import make_plan
from graphrebase.rebase.settings import Settings
from graphrebase.rebase.task import Case, Task, find_task, fitted_again, naive_task
from graphrebase.rebase.trial import Candidate, judge
from graphrebase.runtime.verdict import Verdict, unverified
from graphrebase.structure import Structure, find_structure


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rebase before anything is written; its result can be had at any alpha.

    Attributes:
        case: what it started from.
        task: the fine-tuning on B.
        candidate: the result.
        verdict: what can be said of it without labels.
        given: the inputs that the user brought.
        refitted: whether probes that were held out were fitted on after all.
    """

    case: Case
    task: Task
    candidate: Candidate
    verdict: Verdict
    given: Given
    refitted: bool = False

    @property
    def alignment(self) -> Alignment:
        """The maps, with what was measured."""
        return self.task.alignment

    def naive(self) -> Candidate | None:
        """Return the result of adding the task vector as it is; None where it does not fit."""
        task = naive_task(self.case)
        return None if task is None else _candidate(task, self.case.settings)


def prepare(
    base: Path,
    finetuned: Path,
    target: Path,
    settings: Settings,
    *,
    alignment: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Prepared:
    """Align three models, make the task vector and judge it; arguments and errors as `rebase`.

    Args:
        base: A, the old base.
        finetuned: A_ft.
        target: B, the new base.
        settings: method and options.
        alignment: a stored alignment of A and B.
        output: the file to be written later, checked before any long work.
        force: whether it may be replaced.
        progress: told about every step of long work.
    """
    progress("reading", 0, 0)
    paths = {"base": base, "finetuned": finetuned, "target": target}
    models = {name: read_model(path) for name, path in paths.items()}
    if output is not None:
        check_target(output, [f for m in models.values() for f in m.files], force=force)
    stored = None if alignment is None else load_alignment(alignment)
    residual = settings.residual
    if stored is not None:
        residual = str(stored.options.get("residual", residual))
    structures = {name: find_structure(model, residual=residual) for name, model in models.items()}
    check_architecture(structures["base"], structures["finetuned"], ("base", "fine-tuned"))
    check_architecture(structures["base"], structures["target"], ("base", "target"))
    given = read_given(
        settings.probes,
        settings.keep_data,
        tokens=_scores_tokens(structures["finetuned"]),
        seed=settings.seed,
    )
    case = Case(
        structures,
        pair(structures["base"], structures["target"]),
        settings,
        residual,
        {name: model.sha256() for name, model in models.items()},
        ProbeSource(structures, given, settings.seed, progress),
        progress,
    )
    task = find_task(case, stored)
    prepared = Prepared(case, task, _candidate(task, settings), unverified(""), given)
    return _judged(prepared, output)


def _candidate(task: Task, settings: Settings) -> Candidate:
    plan = make_plan(task.vector, settings.template)
    if not any(entry.action == "moved" for entry in plan):
        raise MismatchError("nothing of the fine-tuning can be moved onto the target")
    return Candidate(task.vector, plan, settings.template)


def _scores_tokens(finetuned: Structure) -> bool:
    return any(name.startswith("head.tokens") for name in finetuned.roles)


def _judged(prepared: Prepared, output: Path | None) -> Prepared:
    """Return the same with its verdict; with plain addition in its place where that is better."""
    held, case, task = prepared.given.held_out, prepared.case, prepared.task
    if held is None:
        return replace(prepared, verdict=unverified(_why_unverified(prepared)))
    method = task.alignment.method
    candidates = {method: prepared.candidate}
    if method != "naive" and (naive := prepared.naive()) is not None:
        candidates["naive"] = naive
    try:
        found = judge(candidates, held, beside=output, progress=case.progress)
    except UsageError as error:
        return replace(prepared, verdict=unverified(error.message))
    own, rival = found[method], found.get("naive")
    prepared = replace(prepared, verdict=own)
    if case.settings.method == "auto" and rival is not None and _better(rival, own):
        return _plain(prepared, rival)
    if method == "fit" and prepared.given.worth_refitting:
        task = fitted_again(case, task)
        candidate = _candidate(task, case.settings)
        return replace(prepared, task=task, candidate=candidate, refitted=True)
    return prepared


def _better(one: Verdict, other: Verdict) -> bool:
    scores = one.evidence, other.evidence
    return scores[0] is not None and scores[1] is not None and scores[0] > scores[1]


def _plain(prepared: Prepared, verdict: Verdict) -> Prepared:
    """Return plain addition in place of a method that does worse."""
    task = naive_task(prepared.case)
    assert task is not None
    method = prepared.alignment.method
    why = f"plain addition does better than {method} on the held-out probes"
    details = prepared.alignment.details
    alignment = replace(task.alignment, details=details)
    task = replace(task, alignment=alignment, why=why, known=prepared.task.known)
    candidate = _candidate(task, prepared.case.settings)
    return replace(prepared, task=task, candidate=candidate, verdict=verdict)


def _why_unverified(prepared: Prepared) -> str:
    given, probing = prepared.given, prepared.task.probing
    least = least_probes(tokens=_scores_tokens(prepared.case.structures["finetuned"]))
    if given.probes is not None:
        return f"too few probes to hold any out: give {least} or more"
    how = _generated(probing) if probing is not None else "no inputs of the task were given"
    return f"{how}; --probes with {least} or more real inputs lets the result be judged"


def _generated(probing: Probing) -> str:
    return f"generated {probing.kind} probes cannot judge a result"
