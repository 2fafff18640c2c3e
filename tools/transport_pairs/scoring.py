"""The arithmetic of the benchmark: shares of a gain, forgetting, means and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

LEAST_GAIN = 1e-3
"""Differences below it (nats, or accuracy) are noise: no share is given of them."""
HEADER = (
    "| model | loss | accuracy | recovered (loss) | recovered (accuracy) "
    "| loss on B's domain | forgetting | E | CPU s |\n|---|" + "---|" * 8
)


@dataclass(frozen=True, slots=True)
class Score:
    """Loss (nats) and accuracy on held-out data."""

    loss: float
    accuracy: float

    @classmethod
    def of_chance(cls, classes: int) -> Score:
        """Return what guessing among so many equally frequent classes reaches."""
        return cls(math.log(classes), 1 / classes)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What every method is measured against.

    Attributes:
        before: B on the task; chance where B lacks the head.
        after: B fine-tuned on the task.
        keep_before: B on its own domain; None where the models have different heads.
        keep_after: B fine-tuned, on B's own domain.
    """

    before: Score
    after: Score
    keep_before: Score | None = None
    keep_after: Score | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method on one pair; a failure has no scores.

    Attributes:
        method: as the command line of the benchmark names it.
        task: on the task's held-out data.
        keep: on B's own domain.
        used: the method that ran, which `auto` chooses.
        evidence: the label-free estimate of the recovered share, where the run gave one.
        seconds: CPU time of the whole command.
        error: why it failed.
    """

    method: str
    task: Score | None = None
    keep: Score | None = None
    used: str = ""
    evidence: float | None = None
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Shares:
    """What a method recovers and forgets, as shares of what fine-tuning B gains and forgets."""

    loss: float | None
    accuracy: float | None
    forgetting: float | None


def share(before: float, new: float, after: float) -> float | None:
    """Return how much of the way from `before` to `after` `new` has gone.

    None where the way is shorter than `LEAST_GAIN`.
    """
    way = after - before
    return None if abs(way) < LEAST_GAIN else (new - before) / way


def shares(outcome: Outcome, bounds: Bounds) -> Shares:
    """Return the shares of an outcome; None where they mean nothing."""
    if outcome.task is None:
        return Shares(None, None, None)
    forgetting = None
    if outcome.keep and bounds.keep_before and bounds.keep_after:
        forgetting = share(bounds.keep_before.loss, outcome.keep.loss, bounds.keep_after.loss)
    return Shares(
        share(bounds.before.loss, outcome.task.loss, bounds.after.loss),
        share(bounds.before.accuracy, outcome.task.accuracy, bounds.after.accuracy),
        forgetting,
    )


def number(value: float | None, digits: int = 2) -> str:
    """Return a cell of a table."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reference(name: str, task: Score, keep: Score | None) -> str:
    cells = [name, number(task.loss, 3), number(task.accuracy, 3), "", ""]
    return _row([*cells, number(keep.loss if keep else None, 3), "", "", ""])


def table(bounds: Bounds, outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of a pair: B, every method, B fine-tuned."""
    lines = [HEADER, _reference("B", bounds.before, bounds.keep_before)]
    for outcome in outcomes:
        name = outcome.method
        if outcome.used not in ("", name.split("+")[0]):
            name += f" ({outcome.used})"
        if outcome.task is None:
            lines.append(_row([name, f"failed: {outcome.error}", *[""] * 7]))
            continue
        found = shares(outcome, bounds)
        cells = [name, number(outcome.task.loss, 3), number(outcome.task.accuracy, 3)]
        cells += [number(found.loss), number(found.accuracy)]
        cells += [number(outcome.keep.loss if outcome.keep else None, 3), number(found.forgetting)]
        lines.append(_row([*cells, number(outcome.evidence), number(outcome.seconds, 0)]))
    return "\n".join([*lines, _reference("B_ft", bounds.after, bounds.keep_after)])


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is there."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


Results = Mapping[str, tuple[str, Bounds, Sequence[Outcome]]]
"""Of each pair by name: its group, bounds and outcomes."""


def means(results: Results) -> str:
    """Return a Markdown table of means per group of pairs and method."""
    rows: dict[tuple[str, str], list[tuple[Shares, Outcome]]] = {}
    for group, bounds, outcomes in results.values():
        for outcome in outcomes:
            entry = (shares(outcome, bounds), outcome)
            rows.setdefault((group, outcome.method), []).append(entry)
    lines = [
        "| pairs | method | runs | recovered (loss) | worst | recovered (accuracy) | forgetting "
        "| error of E | CPU s |",
        "|---|---|" + "---|" * 7,
    ]
    for (group, method), entries in rows.items():
        found = [s for s, o in entries if o.task is not None]
        losses = [s.loss for s in found if s.loss is not None]
        errors = [
            abs(o.evidence - s.loss)
            for s, o in entries
            if o.evidence is not None and s.loss is not None
        ]
        cells = [group, method, f"{len(found)}/{len(entries)}"]
        cells += [number(mean(losses)), number(min(losses, default=None))]
        cells += [
            number(mean(s.accuracy for s in found)),
            number(mean(s.forgetting for s in found)),
        ]
        cells += [number(mean(errors)), number(mean(o.seconds for _, o in entries), 0)]
        lines.append(_row(cells))
    return "\n".join(lines)
