"""Evidence without labels: does a rebased model do what the fine-tuning asks for?

The fine-tuning, put on B by its outputs alone, is p = softmax(B + A_ft - A). On real inputs that
no step has seen, E = 1 - KL(p || new) / KL(p || B) follows the share of the fine-tuning's gain that
was recovered. Where neither base has the head, p = softmax(A_ft) and the reference, in place of B,
is B with the moved head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphrebase.runtime.batches import fixed_batch, predict
from graphrebase.runtime.session import Session

LEVELS = ((0.7, "worth deploying"), (0.5, "usable"), (0.3, "weak"), (-np.inf, "do not use"))
"""What a score from which on means."""
UNVERIFIED = "unverified"
DOUBTFUL_AGREEMENT = 0.5
"""Share of probes on which A_ft and p choose alike, below which accuracy may not follow."""
NO_CHANGE = 1e-6
"""Mean KL(p || B), in nats, below which there is nothing to recover."""
_BATCH = 16
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
    """

    finetuned: Session
    reference: Session
    base: Session | None = None


@dataclass(slots=True)
class _Sums:
    reference: float = 0.0
    candidates: dict[str, float] = field(default_factory=dict)
    agreed: float = 0.0
    scored: int = 0


def measure(goal: Goal, candidates: Mapping[str, Session], probes: Arrays) -> dict[str, Verdict]:
    """Return the verdict on every candidate.

    Args:
        goal: the models that say what is wanted.
        candidates: models to judge, by name.
        probes: real inputs that no step has seen, axis 0 the samples, for all models alike.

    Raises:
        InputError: the probes do not fit a model.
        VerificationError: a model does not run on them.
    """
    sums = _Sums(candidates=dict.fromkeys(candidates, 0.0))
    samples = min(len(array) for array in probes.values())
    size = fixed_batch(goal.finetuned) or min(_BATCH, samples)
    for start in range(0, samples, size):
        stop = min(start + size, samples)
        problem = _count(goal, candidates, probes, start, stop, size, sums)
        if problem:
            return dict.fromkeys(candidates, unverified(problem))
    if sums.reference < NO_CHANGE * sums.scored:
        nothing = unverified("the fine-tuning changes nothing on the held-out probes")
        return dict.fromkeys(candidates, nothing)
    return {name: _verdict(name, goal, sums, samples) for name in candidates}


def _verdict(name: str, goal: Goal, sums: _Sums, samples: int) -> Verdict:
    scores = {n: 1 - total / sums.reference for n, total in sums.candidates.items()}
    own = scores.pop(name)
    agreement = sums.agreed / sums.scored if goal.base is not None else None
    return Verdict(
        judged(own),
        f"measured without labels on {samples} held-out probes",
        own,
        agreement,
        agreement is not None and agreement < DOUBTFUL_AGREEMENT,
        samples,
        sums.scored,
        scores,
    )


def _count(
    goal: Goal,
    candidates: Mapping[str, Session],
    probes: Arrays,
    start: int,
    stop: int,
    size: int,
    sums: _Sums,
) -> str | None:
    """Add the divergences of a mini-batch; returns why that is not possible."""

    def scores(session: Session) -> np.ndarray | None:
        inputs = {name: probes[name] for name in session.inputs if name in probes}
        return class_scores(session, predict(session, inputs, start, stop, size))

    tuned, reference = scores(goal.finetuned), scores(goal.reference)
    base = None if goal.base is None else scores(goal.base)
    found = {name: scores(session) for name, session in candidates.items()}
    everything = [tuned, reference, *found.values(), *([base] if goal.base else [])]
    if tuned is None or reference is None or any(x is None for x in everything):
        return "the models' outputs are not class scores"
    if len({x.shape for x in everything if x is not None}) > 1:
        return "the models' outputs have different shapes"
    rows = _counted(probes, start, stop, tuned.shape[:-1])
    wanted = tuned if base is None else reference + tuned - base
    log_p = _log_softmax(wanted[rows])
    sums.reference += _divergence(log_p, reference[rows])
    for name, values in found.items():
        assert values is not None
        sums.candidates[name] += _divergence(log_p, values[rows])
    sums.agreed += float((log_p.argmax(-1) == tuned[rows].argmax(-1)).sum())
    sums.scored += len(log_p)
    return None


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
