"""Which result is taken: the verdict on a method, on what competes with it, and fits made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from graphrebase.errors import InputError, UsageError, VerificationError
from graphrebase.rebase.control import (
    CONTROL,
)
from graphrebase.rebase.fitting import Probing
from graphrebase.rebase.given import Arrays, least_probes
from graphrebase.rebase.prepared import Prepared, make_candidate, with_heads
from graphrebase.rebase.task import Case, fitted_again, naive_task
from graphrebase.rebase.trial import Candidate, judge
from graphrebase.runtime.verdict import Tally, Verdict, conclude, unverified


def judged(prepared: Prepared, output: Path | None) -> Prepared:
    """Return the same with its verdict; with a rival in its place where that is better."""
    case, method = prepared.case, prepared.alignment.method
    given = prepared.given
    fits = method == "fit" or prepared.trials is not None
    held = given.held_out() if fits else given.unseen()
    if held is None:
        unknown = replace(prepared, verdict=unverified(_why_unverified(prepared)))
        return _compared(unknown, output)
    rivals = _rivals(prepared)
    try:
        found = _judge(case, {method: prepared.candidate, **rivals}, held, output)
    except (UsageError, InputError, VerificationError) as error:
        return replace(prepared, verdict=unverified(f"it cannot be judged: {error.message}"))
    again = fits and len(given.folds) > 1
    for fold in range(1, len(given.folds) if again else 0):
        other = _fitted_on(prepared, case.probes.without(fold))
        part = given.held_out(fold)
        assert part is not None
        tried = {method: other.candidate, **rivals, **_control(other)}
        more = _judge(case, tried, part, output)
        found = {name: tally + more[name] for name, tally in found.items()}
    if again:
        prepared = replace(_fitted_on(prepared, case.probes.whole()), refitted=True)
    return _chosen(prepared, found)


def _rivals(prepared: Prepared) -> dict[str, Candidate]:
    """Return what else might be better: the control of a new head, else plain addition."""
    if prepared.trials is not None:
        return _control(prepared)
    naive = prepared.naive() if prepared.alignment.method != "naive" else None
    return {} if naive is None or prepared.head is not None else {"naive": naive}


def _control(prepared: Prepared) -> dict[str, Candidate]:
    trials = prepared.trials
    return {} if trials is None else {CONTROL: trials.control.candidate}


def _chosen(prepared: Prepared, found: Mapping[str, Tally]) -> Prepared:
    """Return the best by the evidence under `auto`, else the method asked for."""
    method = prepared.alignment.method
    own = found[method]
    rivals = {name: tally for name, tally in found.items() if name != method}
    if prepared.head is not None and prepared.trials is not None:
        head = replace(prepared.head, by=f"evidence on {own.samples} held-out probes")
        prepared = replace(prepared, head=head)
    for name, rival in rivals.items():
        if prepared.case.settings.method == "auto" and _better(rival, own):
            take = _plain if name == "naive" else _untouched
            return take(prepared, conclude(rival, {method: own}))
    return replace(prepared, verdict=conclude(own, rivals))


def _compared(prepared: Prepared, output: Path | None) -> Prepared:
    """Return the better of a result and its control where no real input can tell.

    Generated inputs that nothing was fitted on say little of a result, but they say which of two is
    closer to A_ft; without them, the head's own fit says it.
    """
    trials, head, probing = prepared.trials, prepared.head, prepared.task.probing
    if trials is None or head is None or probing is None:
        return prepared
    method = prepared.alignment.method
    own, control, by = trials.own.lost, trials.control.lost, "probes left out of the head's fit"
    if probing.spare:
        tried = {method: trials.own.candidate, **_control(prepared)}
        found = _judge(prepared.case, tried, probing.spare, output)
        if found[method].evidence is not None:
            own, control = (found[n].lost / found[n].scored for n in (method, CONTROL))
            by = f"{found[method].samples} generated probes left out of both"
    prepared = replace(prepared, head=replace(head, by=by))
    if prepared.case.settings.method == "auto" and control < own:
        return _untouched(prepared, prepared.verdict)
    return prepared


def _untouched(prepared: Prepared, verdict: Verdict) -> Prepared:
    """Return the control in place of a method that does worse: B as it is under the new head."""
    assert prepared.trials is not None and prepared.head is not None
    method = prepared.alignment.method
    why = f"the target untouched, its new head fitted again, does better than {method}"
    alignment = replace(prepared.task.alignment, method=CONTROL)
    return replace(
        prepared,
        task=replace(prepared.task, alignment=alignment, why=why),
        candidate=prepared.trials.control.candidate,
        head=replace(prepared.head, kept="control"),
        verdict=verdict,
    )


def _judge(
    case: Case, candidates: Mapping[str, Candidate], probes: Arrays, output: Path | None
) -> dict[str, Tally]:
    return judge(
        candidates,
        probes,
        beside=output,
        progress=case.progress,
        vocabularies=case.vocabularies,
    )


def _fitted_on(prepared: Prepared, probing: Probing) -> Prepared:
    """Return the same fitted on other probes; other methods than `fit` fit their new heads only."""
    task = replace(prepared.task, probing=probing)
    if prepared.alignment.method == "fit":
        task = fitted_again(prepared.case, prepared.task, probing)
    return with_heads(prepared.case, task)


def _better(one: Tally, other: Tally) -> bool:
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
    candidate = make_candidate(task, prepared.case)
    return replace(prepared, task=task, candidate=candidate, verdict=verdict)


def _why_unverified(prepared: Prepared) -> str:
    given, probing = prepared.given, prepared.task.probing
    fits = prepared.alignment.method == "fit" or prepared.trials is not None
    least = least_probes(given.least) if fits else given.least
    if given.probes is not None:
        return f"too few probes to judge by: give {least} or more"
    how = "no inputs of the task were given"
    if probing is not None:
        how = f"generated {probing.kind} probes cannot judge a result"
    return f"{how}; --probes with {least} or more real inputs lets it be judged"
