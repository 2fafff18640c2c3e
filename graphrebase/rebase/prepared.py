"""A rebase before anything is written: task vector and plan, new heads fitted again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphrebase.align import Alignment
from graphrebase.errors import InputError, MismatchError, UsageError, VerificationError
from graphrebase.rebase.control import (
    HeadReport,
    Trials,
    head_report,
    probes_for_heads,
    try_heads,
)
from graphrebase.rebase.given import Given
from graphrebase.rebase.heads import with_moved_heads
from graphrebase.rebase.plan import make_plan
from graphrebase.rebase.task import Case, Task, naive_task
from graphrebase.rebase.trial import Candidate
from graphrebase.runtime.verdict import Verdict, unverified


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
        return None if task is None else make_candidate(task, self.case)


def with_heads(case: Case, task: Task) -> Prepared:
    """Return a rebase before it is judged, new heads moved and fitted again."""
    candidate = make_candidate(task, case)
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
    except (UsageError, InputError, VerificationError) as error:
        reason = error.message
    candidate = with_moved_heads(candidate) if trials is None else trials.own.candidate
    head = head_report(trials, candidate, reason)
    return replace(plain, candidate=candidate, trials=trials, head=head)


def make_candidate(task: Task, case: Case) -> Candidate:
    """Return the result that a task vector gives, as a plan that can be had at any alpha.

    Raises:
        MismatchError: nothing can be moved.
    """
    holder = case.holder
    plan = make_plan(task.vector, holder.structure, holder.template)
    if not any(entry.action == "moved" for entry in plan):
        raise MismatchError(
            "nothing of the fine-tuning can be moved onto the target",
            hint="look at all three with `graphrebase inspect`",
        )
    return Candidate(task.vector, plan, holder.structure)
