"""Evidence without labels: does a rebased model do what the fine-tuning asks for?

The fine-tuning, put on B by its outputs alone, is p = softmax(B + A_ft - A). On real inputs that
no step has seen, E = 1 - KL(p || new) / KL(p || B) follows the share of the fine-tuning's gain that
was recovered. Where neither base has the head, p = softmax(A_ft) and the reference, in place of B,
is B with the moved head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from graphrebase.runtime.batches import fixed_batch, predict, sample_count
from graphrebase.runtime.session import Session

LEVELS = ((0.7, "worth deploying"), (0.5, "usable"), (0.3, "weak"), (-np.inf, "do not use"))
"""What a score from which on means."""
UNVERIFIED = "unverified"
DOUBTFUL_AGREEMENT = 0.5
"""Share of probes on which A_ft and p choose alike, below which accuracy may not follow."""
NO_CHANGE = 1e-6
"""Mean KL(p || B), in nats, below which there is nothing to recover."""
_BATCH = 16
_SCORES = 1 << 22
"""Scores of one run, at most, where it does not become less than a sample."""
MOST_SCORES = 1 << 26
"""Scores of one model that are kept: of a vocabulary of 50 000, those of 1300 tokens."""
_NO_SCORES = "the models' outputs are not class scores"
_NOT_SCORES = ("embed", "hidden", "pool", "feature")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a result without labels.

    Attributes:
        verdict: ``worth deploying``, ``usable``, ``weak``, ``do not use`` or ``unverified``.
        reason: why, in a sentence.
        evidence: E, None where it is not known or would say nothing.
        agreement: share of probes on which A_ft and p choose the same class.
        loss_only: whether loss may recover without accuracy.
        samples: held-out probes.
        scored: predictions on them: one per probe, or per token.
        rivals: E of what else was tried.
    """

    verdict: str
    reason: str
    evidence: float | None = None
    agreement: float | None = None
    loss_only: bool = False
    samples: int = 0
    scored: int = 0
    rivals: Mapping[str, float] = field(default_factory=dict)


def unverified(reason: str) -> Verdict:
    """Return the verdict of a result that nothing is known of."""
    return Verdict(UNVERIFIED, reason)


def judged(evidence: float) -> str:
    """Return what a score means."""
    return next(name for least, name in LEVELS if evidence >= least)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of probes.

    Attributes:
        scores: logits (samples, classes) or (samples, tokens, classes) in single precision, of the
            first samples where all are too many; None where the outputs are no class scores.
    """

    scores: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Goal:
    """What a result is measured by: what three models say of the same probes.

    Attributes:
        finetuned: A_ft.
        reference: B; with a head that neither base has, B with the moved head.
        base: A; None with a head that neither base has.
        counted: which tokens count, (samples, tokens); None for all that no mask hides.
    """

    finetuned: Answers
    reference: Answers
    base: Answers | None = None
    counted: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Tally:
    """Sums over probes of what one candidate lacks; tallies of several sets can be added.

    Attributes:
        start: of KL(p || reference).
        lost: of KL(p || candidate).
        agreed: predictions that A_ft and p share; None with a new head.
        samples: probes.
        scored: predictions.
        fault: why nothing can be measured; empty if all is well.
        bounded: whether all outputs so far lie between 0 and 1, as those of a sigmoid do.
    """

    start: float = 0.0
    lost: float = 0.0
    agreed: float | None = 0.0
    samples: int = 0
    scored: int = 0
    fault: str = ""
    bounded: bool = True

    def __add__(self, other: Tally) -> Tally:
        """Return the sums over both sets of probes."""
        agreed = None
        if self.agreed is not None and other.agreed is not None:
            agreed = self.agreed + other.agreed
        return Tally(
            self.start + other.start,
            self.lost + other.lost,
            agreed,
            self.samples + other.samples,
            self.scored + other.scored,
            self.fault or other.fault,
            self.bounded and other.bounded,
        )

    @property
    def evidence(self) -> float | None:
        """E; None where it is not known or would say nothing."""
        if self.fault or self.bounded or self.start <= NO_CHANGE * self.scored:
            return None
        return 1 - self.lost / self.start


def conclude(tally: Tally, rivals: Mapping[str, Tally] = MappingProxyType({})) -> Verdict:
    """Return the verdict on a candidate.

    Args:
        tally: of the candidate.
        rivals: of what else was tried.
    """
    evidence = tally.evidence
    if evidence is None:
        nothing = "the fine-tuning changes nothing on the held-out probes"
        if tally.scored and tally.bounded:
            nothing = _NO_SCORES
        return unverified(tally.fault or nothing)
    agreement = None if tally.agreed is None else tally.agreed / tally.scored
    scores = {name: other.evidence for name, other in rivals.items()}
    return Verdict(
        judged(evidence),
        f"measured without labels on {tally.samples} held-out probes",
        evidence,
        agreement,
        agreement is not None and agreement < DOUBTFUL_AGREEMENT,
        tally.samples,
        tally.scored,
        {name: score for name, score in scores.items() if score is not None},
    )


def ask(session: Session, probes: Arrays) -> Answers:
    """Return what a model says of probes.

    Args:
        session: the model.
        probes: its inputs, axis 0 the samples.

    Raises:
        VerificationError: the model does not run on them.
    """
    samples = sample_count(probes)
    inputs = {name: probes[name] for name in session.inputs if name in probes}
    each = max(predict(session, inputs, 0, 1, 1).size, 1)
    size = fixed_batch(session) or int(np.clip(_SCORES // each, 1, _BATCH))
    samples = min(samples, max(MOST_SCORES // each, 1))
    parts = []
    for start in range(0, samples, size):
        stop = min(start + size, samples)
        found = _scores(session, predict(session, inputs, start, stop, size))
        if found is None:
            return Answers(None)
        parts.append(found.astype(np.float32))
    return Answers(np.concatenate(parts))


def compare(goal: Goal, candidate: Answers, probes: Arrays) -> Tally:
    """Return what a candidate lacks.

    Args:
        goal: what is wanted.
        candidate: what the model to judge says.
        probes: real inputs that no step has seen, axis 0 the samples.
    """
    base = goal.reference if goal.base is None else goal.base
    asked = [x.scores for x in (goal.finetuned, goal.reference, base, candidate)]
    if any(scores is None for scores in asked):
        return Tally(fault=_NO_SCORES)
    found = [scores for scores in asked if scores is not None]
    if len({scores.shape[1:] for scores in found}) > 1:
        return Tally(fault="the models' outputs have different shapes")
    samples = min(map(len, found))
    rows = _counted(probes, found[0][:samples].shape[:-1])
    if goal.counted is not None and goal.counted[:samples].shape == rows.shape:
        rows &= goal.counted[:samples]
    tally = Tally()
    size = max(_SCORES // max(found[0][0].size, 1), 1)
    for start in range(0, samples, size):
        part = slice(start, min(start + size, samples))
        scores = (x[part][rows[part]].astype(np.float64) for x in found)
        tally += replace(_count(*scores), samples=part.stop - start)
    return tally if goal.base is not None else replace(tally, agreed=None)


def _count(tuned: np.ndarray, reference: np.ndarray, base: np.ndarray, new: np.ndarray) -> Tally:
    """Return the sums over some predictions, logits (N, classes) each."""
    # without a base, the reference stands in for it and cancels out: p = softmax(A_ft)
    log_p = _log_softmax(reference + tuned - base)
    return Tally(
        _divergence(log_p, reference),
        _divergence(log_p, new),
        float((log_p.argmax(-1) == tuned.argmax(-1)).sum()),
        scored=len(log_p),
        bounded=all(_are_bounded(x) for x in (tuned, reference, base, new)),
    )


def class_scores(session: Session, values: np.ndarray) -> np.ndarray | None:
    """Return a model's output as logits, (.., classes) float64; None where it is no such thing.

    Probabilities are taken to their logarithm. Those that do not add up to 1 are of labels that do
    not exclude each other.
    """
    scores = _scores(session, values)
    return None if scores is None or _are_bounded(scores) else scores


def _are_bounded(scores: np.ndarray) -> bool:
    """Return whether scores are shares that do not add up, or logits that look so by chance."""
    return bool((scores >= 0).all() and (scores <= 1).all())


def _scores(session: Session, values: np.ndarray) -> np.ndarray | None:
    """Return class scores, perhaps shares that do not add up; None where it is no such thing."""
    name = session.outputs[0].lower() if "logits" not in session.outputs else "logits"
    if values.dtype.kind in "biuOSU" or values.ndim not in (2, 3) or values.shape[-1] < 2:
        return None
    if any(word in name for word in _NOT_SCORES):
        return None
    scores = values.astype(np.float64)
    if not np.isfinite(scores).all():
        return None
    if _are_bounded(scores) and np.allclose(scores.sum(-1), 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-30))
    return scores


def _counted(probes: Arrays, shape: tuple[int, ...]) -> np.ndarray:
    """Return which predictions count: those that no mask hides."""
    rows = np.ones(shape, bool)
    for name, array in probes.items():
        part = array[: shape[0]] if array.ndim else array
        if "mask" in name.lower() and part.shape == shape:
            rows &= part != 0
    return rows


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _divergence(log_p: np.ndarray, logits: np.ndarray) -> float:
    """Return the sum over rows of KL(p || softmax(logits)), in nats."""
    return float((np.exp(log_p) * (log_p - _log_softmax(logits))).sum())
