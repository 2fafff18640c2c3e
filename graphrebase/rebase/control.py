"""The control of every new head: B untouched, with the head fitted again.

Most of what a new head gains comes from fitting it again, so what the body adds is only seen beside
B as it is under a head fitted in the same way. `auto` keeps the better of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.rebase.fitting import Probing
from graphrebase.rebase.heads import Refitted, new_heads, refit_heads, with_moved_heads
from graphrebase.rebase.task import Case, Task
from graphrebase.rebase.trial import Candidate
from graphrebase.runtime.vocabulary import Vocabularies

CONTROL = "refit"
"""What the control is called among methods: nothing but the head is fitted."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Trials:
    """A result with a new head, and its control.

    Attributes:
        own: the result with its head fitted again.
        control: B as it is under the same head, fitted again too.
    """

    own: Refitted
    control: Refitted


@dataclass(frozen=True, slots=True)
class HeadReport:
    """What was done to heads that neither base has.

    Attributes:
        heads: their last linear maps, by role.
        refitted: whether these were fitted again; if not, they were only moved.
        reason: why not.
        probes: on how many inputs.
        lost: mean KL(A_ft || result), in nats, on probes left out when the head was fitted.
        moved: the same with the head only moved.
        control: the same of B untouched under a head fitted again.
        control_moved: the same of B untouched under the moved head.
        kept: ``method`` or ``control``.
        by: what the two were compared by.
    """

    heads: tuple[str, ...]
    refitted: bool
    reason: str = ""
    probes: int = 0
    lost: float | None = None
    moved: float | None = None
    control: float | None = None
    control_moved: float | None = None
    kept: str = "method"
    by: str = ""


def try_heads(
    candidate: Candidate, probes: Arrays, vocabularies: Vocabularies | None = None
) -> Trials:
    """Return a result and its control, new heads fitted again on the same probes.

    Args:
        candidate: the result.
        probes: inputs of A_ft.
        vocabularies: of A and B, where they differ.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: the probes do not fit the models.
    """
    moved = with_moved_heads(candidate)
    results = (refit_heads(x, probes, vocabularies) for x in (moved, moved.untouched()))
    return Trials(*results)


def probes_for_heads(case: Case, task: Task) -> tuple[Probing | None, str]:
    """Return what new heads can be fitted on, or why there is nothing.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    if task.probing is not None:
        return task.probing, ""
    if case.probes.given.probes is None and task.alignment.method == "naive":
        return None, "the moved head fits relatives, and generated inputs might spoil it"
    if not case.probes.useful():
        return None, "it would need --probes for this kind of model"
    return case.probes.get(), ""


def head_report(trials: Trials | None, candidate: Candidate, reason: str) -> HeadReport:
    """Return what was done to new heads, before anything is chosen."""
    names = tuple(f"{head.last}.weight" for head in new_heads(candidate))
    if trials is None:
        return HeadReport(names, False, reason)
    own, control = trials.own, trials.control
    return HeadReport(
        names, True, "", own.samples, own.lost, own.moved, control.lost, control.moved
    )
