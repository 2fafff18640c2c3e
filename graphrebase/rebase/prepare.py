"""Everything of a rebase before the output: alignment, task vector, plan, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from graphrebase.align import Alignment
from graphrebase.align import load as load_alignment
from graphrebase.errors import MismatchError, UsageError
from graphrebase.io import check_target, read_model
from graphrebase.progress import Progress, silent
from graphrebase.rebase.control import (
    CONTROL,
    HeadReport,
    Trials,
    head_report,
    probes_for_heads,
    try_heads,
)
from graphrebase.rebase.ends import find_counterparts
from graphrebase.rebase.fitting import ProbeSource, Probing
from graphrebase.rebase.given import Arrays, Given, least_probes, read_given, samples
from graphrebase.rebase.graft import Holder, graft_head, new_heads
from graphrebase.rebase.heads import with_moved_heads
from graphrebase.rebase.pairing import check_architecture, check_family, pair, same_sizes
from graphrebase.rebase.plan import make_plan
from graphrebase.rebase.rows import Matched, match_rows
from graphrebase.rebase.settings import Settings
from graphrebase.rebase.task import Case, Task, find_task, fitted_again, naive_task
from graphrebase.rebase.trial import Candidate, judge
from graphrebase.runtime.verdict import Tally, Verdict, conclude, unverified
from graphrebase.runtime.vocabulary import read_token_map
from graphrebase.structure import Structure, find_structure

CHEAP = 2e9
"""Weights times probes up to which a fit is made several times: to judge it, and on all probes."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rebase before anything is written; its result can be had at any alpha.

    Attributes:
        case: what it started from.
        task: the fine-tuning on B.
        candidate: the result.
        verdict: what can be said of it without labels.
        given: the inputs that the user brought.
        refitted: whether probes that were held out were fitted on in the end.
        trials: result and control under a new head that was fitted again; None without.
        head: what was done to new heads; None where there are none.
    """

    case: Case
    task: Task
    candidate: Candidate
    verdict: Verdict
    given: Given
    refitted: bool = False
    trials: Trials | None = None
    head: HeadReport | None = None

    @property
    def alignment(self) -> Alignment:
        """The maps, with what was measured."""
        return self.task.alignment

    def naive(self) -> Candidate | None:
        """Return the result of adding the task vector as it is; None where it does not fit."""
        task = naive_task(self.case)
        return None if task is None else _candidate(task, self.case)


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
    matched = _matched(structures, settings)
    structures = dict(matched.structures)
    names = _names(structures)
    reason = "size" if names is not None else "the lengths of their tables"
    differs = reason if names is not None or matched.changed else ""
    holder = _holder(structures, settings, residual, output, differs)
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
        holder,
        {name: model.sha256() for name, model in models.items()},
        ProbeSource(structures, given, settings.seed, progress),
        progress,
        names,
        matched.vocabularies,
    )
    return _judged(_prepared(case, find_task(case, stored)), output)


def _prepared(case: Case, task: Task) -> Prepared:
    """Return a rebase before it is judged, new heads moved and fitted again."""
    candidate = _candidate(task, case)
    plain = Prepared(case, task, candidate, unverified(""), case.probes.given)
    if not candidate.new_head:
        return plain
    trials = None
    try:
        probing, reason = probes_for_heads(case, task)
        if probing is not None:
            case.progress("fitting the new head", 0, 0)
            trials = try_heads(candidate, probing.task, case.vocabularies)
            plain = replace(plain, task=replace(task, probing=probing))
    except UsageError as error:
        reason = error.message
    candidate = with_moved_heads(candidate) if trials is None else trials.own.candidate
    head = head_report(trials, candidate, reason)
    return replace(plain, candidate=candidate, trials=trials, head=head)


def _names(structures: Mapping[str, Structure]) -> dict[str, str] | None:
    """Return A's roles by B's where the two differ in size; None where they do not.

    Raises:
        MismatchError: they have one size, but not one architecture.
    """
    base, target = structures["base"], structures["target"]
    if same_sizes(base, target):
        check_architecture(base, target, ("base", "target"))
        return None
    return find_counterparts(target, base)


def _matched(structures: Mapping[str, Structure], settings: Settings) -> Matched:
    """Return the structures, A's tables as long as B's.

    Raises:
        MismatchError: the models are not of one family, or their vocabularies do not fit.
        InputError: the vocabulary map cannot be used.
    """
    base, target = structures["base"], structures["target"]
    if not same_sizes(base, target):
        check_family(base, target, ("base", "target"))
    path = settings.vocab_map
    return match_rows(structures, None if path is None else read_token_map(path))


def _holder(
    structures: Mapping[str, Structure],
    settings: Settings,
    residual: str,
    output: Path | None,
    differs: str,
) -> Holder:
    """Return whose graph the output has; A and B may differ in something that only B's can have."""
    template = settings.template
    if template == "auto":
        template = "target" if differs else "finetuned"
    if differs and template == "finetuned":
        raise MismatchError(
            f"base and target differ in {differs}, so the output cannot have the fine-tuned "
            "model's graph",
            hint="use --template target, or leave it to auto",
        )
    finetuned, target = structures["finetuned"], structures["target"]
    if template == "finetuned":
        return Holder(template, finetuned)
    if not new_heads(finetuned, target):
        return Holder(template, target)
    grafted = graft_head(finetuned, target, residual, output)
    return Holder(template, grafted.structure, grafted)


def _candidate(task: Task, case: Case) -> Candidate:
    holder = case.holder
    plan = make_plan(task.vector, holder.structure, holder.template)
    if not any(entry.action == "moved" for entry in plan):
        raise MismatchError("nothing of the fine-tuning can be moved onto the target")
    return Candidate(task.vector, plan, holder.structure)


def _scores_tokens(finetuned: Structure) -> bool:
    return any(name.startswith("head.tokens") for name in finetuned.roles)


def _judged(prepared: Prepared, output: Path | None) -> Prepared:
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
    except UsageError as error:
        return replace(prepared, verdict=unverified(error.message))
    again = fits and given.worth_refitting and _cheap(prepared)
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
        if not found[method].fault:
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
    return _prepared(prepared.case, task)


def _cheap(prepared: Prepared) -> bool:
    """Return whether a fit is soon made again: by its arithmetic, so that no clock decides."""
    probing = prepared.task.probing
    assert probing is not None
    target = prepared.case.structures["target"]
    weights = sum(math.prod(role.view.shape) for role in target.roles.values())
    return weights * (samples(probing.task) + samples(probing.keep)) <= CHEAP


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
    candidate = _candidate(task, prepared.case)
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
