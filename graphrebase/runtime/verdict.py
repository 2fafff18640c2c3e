"""Evidence without labels: does a rebased model do what the fine-tuning asks for?

The fine-tuning, put on B by its outputs alone, is p = softmax(B + A_ft - A). On real inputs that
no step has seen, E = 1 - KL(p || new) / KL(p || B) follows the share of the fine-tuning's gain that
was recovered. Where neither base has the head, p = softmax(A_ft) and the reference, in place of B,
is B with the moved head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from graphrebase.runtime.batches import fixed_batch, predict
from graphrebase.runtime.session import Session
from graphrebase.runtime.vocabulary import Vocabularies

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
class Goal:
    """What a result is measured by.

    Attributes:
        finetuned: A_ft.
        reference: B; with a head that neither base has, B with the moved head.
        base: A; None with a head that neither base has.
        vocabularies: of A and B, where they differ; probes are in A's, and only what both have
            is scored.
    """

    finetuned: Session
    reference: Session
    base: Session | None = None
    vocabularies: Vocabularies | None = None


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
    """

    start: float = 0.0
    lost: float = 0.0
    agreed: float | None = 0.0
    samples: int = 0
    scored: int = 0
    fault: str = ""

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
        )

    @property
    def evidence(self) -> float | None:
        """E; None where it is not known or would say nothing."""
        if self.fault or self.start <= NO_CHANGE * self.scored:
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


def measure(goal: Goal, candidate: Session, probes: Arrays) -> Tally:
    """Return what a candidate lacks.

    Args:
        goal: the models that say what is wanted.
        candidate: the model to judge.
        probes: real inputs that no step has seen, axis 0 the samples, for all models alike.

    Raises:
        InputError: the probes do not fit a model.
        VerificationError: a model does not run on them.
    """
    tally = Tally(agreed=None if goal.base is None else 0.0)
    samples = min(len(array) for array in probes.values())
    size = fixed_batch(goal.finetuned) or _affordable(goal.finetuned, probes, samples)
    for start in range(0, samples, size):
        tally += _count(goal, candidate, probes, start, min(start + size, samples), size)
        if tally.fault:
            break
    return tally


def _affordable(session: Session, probes: Arrays, samples: int) -> int:
    """Return the samples of a run: fewer where a sample's scores are many."""
    inputs = {name: probes[name] for name in session.inputs if name in probes}
    size = predict(session, inputs, 0, 1, 1).size
    return int(np.clip(_SCORES // max(size, 1), 1, min(_BATCH, samples)))


def _count(
    goal: Goal, candidate: Session, probes: Arrays, start: int, stop: int, size: int
) -> Tally:
    """Return the sums over a mini-batch."""
    both = goal.vocabularies
    translated, known = (probes, None) if both is None else both.to_new(probes)

    def scores(session: Session) -> np.ndarray | None:
        is_new = session in (goal.reference, candidate)
        arrays = translated if is_new else probes
        inputs = {name: arrays[name] for name in session.inputs if name in arrays}
        found = class_scores(session, predict(session, inputs, start, stop, size))
        return found if found is None or both is None else both.common(found, new=is_new)

    tuned, reference, new = (scores(s) for s in (goal.finetuned, goal.reference, candidate))
    base = reference if goal.base is None else scores(goal.base)
    if tuned is None or reference is None or new is None or base is None:
        return Tally(fault="the models' outputs are not class scores")
    if len({x.shape for x in (tuned, reference, new, base)}) > 1:
        return Tally(fault="the models' outputs have different shapes")
    rows = _counted(probes, start, stop, tuned.shape[:-1])
    if known is not None and known[start:stop].shape == rows.shape:
        rows &= known[start:stop]
    # without a base, the reference stands in for it and cancels out: p = softmax(A_ft)
    log_p = _log_softmax((reference + tuned - base)[rows])
    agreed = float((log_p.argmax(-1) == tuned[rows].argmax(-1)).sum())
    return Tally(
        _divergence(log_p, reference[rows]),
        _divergence(log_p, new[rows]),
        None if goal.base is None else agreed,
        stop - start,
        len(log_p),
    )


def class_scores(session: Session, values: np.ndarray) -> np.ndarray | None:
    """Return a model's output as logits, (.., classes) float64; None where it is no such thing.

    Probabilities are taken to their logarithm.
    """
    name = session.outputs[0].lower() if "logits" not in session.outputs else "logits"
    if values.dtype.kind in "biuOSU" or values.ndim not in (2, 3) or values.shape[-1] < 2:
        return None
    if any(word in name for word in _NOT_SCORES):
        return None
    scores = values.astype(np.float64)
    if not np.isfinite(scores).all():
        return None
    if scores.min() >= 0 and scores.max() <= 1:
        if not np.allclose(scores.sum(-1), 1, atol=1e-3):
            return None
        return np.log(np.maximum(scores, 1e-30))
    return scores


def _counted(probes: Arrays, start: int, stop: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return which predictions count: those that no mask hides."""
    rows = np.ones(shape, bool)
    for name, array in probes.items():
        part = array[start:stop]
        if "mask" in name.lower() and part.shape == shape:
            rows &= part != 0
    return rows


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _divergence(log_p: np.ndarray, logits: np.ndarray) -> float:
    """Return the sum over rows of KL(p || softmax(logits)), in nats."""
    return float((np.exp(log_p) * (log_p - _log_softmax(logits))).sum())
