"""Evaluation on labelled data: models side by side, and what a rebase gives at every alpha."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphrebase.errors import GraphRebaseError, UsageError
from graphrebase.progress import Progress, silent
from graphrebase.rebase import Prepared, Settings, prepare
from graphrebase.rebase.trial import Candidate, answers, goal_of
from graphrebase.runtime import METRICS, Labelled, Scores, Session, evaluate, read_labelled
from graphrebase.runtime.verdict import compare

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
EVIDENCE_SAMPLES = 256
"""Inputs of the data on which the evidence without labels is measured, at most."""


@dataclass(frozen=True, slots=True)
class Release:
    """The models of a sweep.

    Attributes:
        base: A.
        finetuned: A_ft.
        target: B.
        target_finetuned: B, fine-tuned on the task itself: the upper bound; None if there is none.
    """

    base: Path
    finetuned: Path
    target: Path
    target_finetuned: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One model, measured.

    Attributes:
        name: what it is.
        model: its file; None for a result that was made for the occasion.
        alpha: scale of the task vector; None where there is none.
        task: its scores on the task.
        domain: its scores on B's own domain; None without such data.
        evidence: E, measured without the labels of the task; None where it says nothing.
    """

    name: str
    model: Path | None
    alpha: float | None
    task: Scores
    domain: Scores | None
    evidence: float | None = None


@dataclass(frozen=True, slots=True)
class _Data:
    task: Labelled
    domain: Labelled | None

    def row(self, name: str, session: Session, model: Path | None, alpha: float | None) -> Row:
        """Return the scores of a model."""
        task, *domain = (
            evaluate(session, data.inputs, data.labels)
            for data in (self.task, self.domain)
            if data is not None
        )
        return Row(name, model, alpha, task, domain[0] if domain else None)


def evaluate_models(
    models: Sequence[Path],
    data: Path,
    *,
    keep_data: Path | None = None,
    metrics: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure every model on labelled data; returns plain data.

    Args:
        models: ONNX files.
        data: npz of inputs and labels.
        keep_data: the same of B's own domain.
        metrics: names of the metrics to show; those usual for the labels by default.
        progress: told about every step.

    Raises:
        UsageError: a metric is unknown or does not suit the labels.
        InputError: the data does not fit the models or has no labels.
        VerificationError: a model does not run, or its outputs are not finite.
    """
    _check_metrics(metrics)
    found = _read(data, keep_data, Session(models[0]))
    rows = []
    for number, path in enumerate(models):
        progress("measuring", number, len(models))
        rows.append(found.row(path.stem, Session(path), path, None))
    return _plain(rows, found, data, keep_data, metrics, None, None)


def evaluate_sweep(
    release: Release,
    data: Path,
    settings: Settings,
    *,
    alphas: Sequence[float] = ALPHAS,
    others: Sequence[Path] = (),
    keep_data: Path | None = None,
    alignment: Path | None = None,
    metrics: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure B, plain addition and the rebased model at every alpha, A_ft, and B fine-tuned.

    The alignment, or the fit, is made once: theta = theta_B + alpha * change.

    Args:
        release: the models.
        data: npz of inputs and labels of the task.
        settings: method and options; its alpha does not count.
        alphas: scales of the task vector.
        others: further models to put beside them.
        keep_data: npz of inputs and labels of B's own domain; nothing is fitted on it.
        alignment: a stored alignment.
        metrics: names of the metrics to show; those usual for the labels by default.
        progress: told about every step.

    Raises:
        UsageError: a metric is unknown or does not suit the labels, or there is no alpha.
        InputError: the data does not fit the models or has no labels.
        MismatchError: the models do not fit together.
        VerificationError: a model does not run, or its outputs are not finite.
    """
    _check_metrics(metrics)
    if not alphas or not all(np.isfinite(alphas)):
        raise UsageError("alphas must be finite numbers", hint="for example 0.5,1")
    found = _read(data, keep_data, Session(release.finetuned))
    prepared = prepare(
        release.base, release.finetuned, release.target, settings,
        alignment=alignment, progress=progress,
    )  # fmt: skip
    plan = [
        *_rebased(prepared, alphas),
        ("A fine-tuned", None, release.finetuned),
        *((path.stem, None, path) for path in others),
    ]
    bound = release.target_finetuned
    if bound is not None:
        plan.append(("B fine-tuned", None, bound))
    rows = []
    inputs = {name: array[:EVIDENCE_SAMPLES] for name, array in found.task.inputs.items()}
    evidence = _evidence(prepared, inputs)
    for number, (name, alpha, source) in enumerate(plan):
        progress("measuring", number, len(plan))
        path = source if isinstance(source, Path) else None
        opened = source.running() if isinstance(source, Candidate) else nullcontext(_open(path))
        with opened as session:
            row = found.row(name, session, path, alpha)
            made = isinstance(source, Candidate) or name == "B"
            rows.append(replace(row, evidence=evidence(session)) if made else row)
    reference = next(r for r in rows if r.name.startswith("B"))
    best = rows[-1] if bound is not None else None
    result = _plain(rows, found, data, keep_data, metrics, reference, best)
    verdict = prepared.verdict
    return {
        **result,
        "method": prepared.alignment.method,
        "why": prepared.task.why,
        "verdict": verdict.verdict,
        "evidence": verdict.evidence,
    }


_Step = tuple[str, float | None, Candidate | Path]


def _rebased(prepared: Prepared, alphas: Sequence[float]) -> Iterator[_Step]:
    """Yield B, plain addition and the result at every alpha, made when they are opened."""
    candidate = prepared.candidate
    if candidate.new_head:
        yield "B + moved head", 0.0, candidate.untouched()
    else:
        yield "B", 0.0, candidate.vector.target.model.path
    method = prepared.alignment.method
    naive = prepared.naive() if method != "naive" else None
    for name, source in (("naive", naive), (method, candidate)):
        for alpha in alphas:
            if source is not None and (alpha or source.new_head):
                yield f"B + {name}", alpha, source.at(alpha)


def _open(path: Path | None) -> Session:
    assert path is not None
    return Session(path)


def _evidence(
    prepared: Prepared, inputs: Mapping[str, np.ndarray]
) -> Callable[[Session], float | None]:
    """Return what gives E on the inputs of the data, None where outputs cannot be compared."""
    both = prepared.case.vocabularies
    try:
        goal = goal_of(prepared.candidate, inputs, vocabularies=both)
    except GraphRebaseError:
        return lambda _: None

    def evidence(session: Session) -> float | None:
        try:
            return compare(goal, answers(session, inputs, both), inputs).evidence
        except GraphRebaseError:
            return None

    return evidence


def _read(data: Path, keep_data: Path | None, session: Session) -> _Data:
    domain = None if keep_data is None else read_labelled(keep_data, session)
    return _Data(read_labelled(data, session), domain)


def _check_metrics(metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"unknown metric '{name}'", hint=f"use {', '.join(METRICS)}")


def _plain(
    rows: Sequence[Row],
    found: _Data,
    data: Path,
    keep_data: Path | None,
    metrics: Sequence[str],
    reference: Row | None,
    best: Row | None,
) -> dict[str, Any]:
    kind = rows[0].task.kind
    for name in metrics:
        if kind not in METRICS[name].kinds:
            suited = ", ".join(n for n, m in METRICS.items() if kind in m.kinds)
            raise UsageError(f"{name} does not suit these labels ({kind})", hint=f"use {suited}")
    usual = [name for name, metric in METRICS.items() if kind in metric.shown]
    return {
        "data": str(data),
        "labels": found.task.source,
        "keep_data": None if keep_data is None else str(keep_data),
        "kind": kind,
        "metrics": [_key(name) for name in metrics or usual],
        "models": [_row(row, reference, best) for row in rows],
    }


def _row(row: Row, reference: Row | None, best: Row | None) -> dict[str, Any]:
    return {
        "name": row.name,
        "model": None if row.model is None else str(row.model),
        "alpha": row.alpha,
        **_values(row.task),
        "domain": None if row.domain is None else _values(row.domain),
        "recovered": None if reference is None else _recovered(row, reference, best),
        "forgetting": None if reference is None else _forgetting(row, reference, best),
        "evidence": row.evidence,
    }


def _values(scores: Scores) -> dict[str, float]:
    return {**{_key(n): v for n, v in scores.values.items()}, "samples": scores.samples}


def _recovered(row: Row, reference: Row, best: Row | None) -> dict[str, float | None] | None:
    """Return what share of the gain of fine-tuning B is there, by metric; None without B_ft."""
    if best is None:
        return None
    found: dict[str, float | None] = {}
    for name, start in reference.task.values.items():
        if METRICS[name].recovers:
            gain = best.task.values[name] - start
            helped = (gain > 0) == METRICS[name].rises and gain != 0
            found[_key(name)] = (row.task.values[name] - start) / gain if helped else None
    return found


def _forgetting(row: Row, reference: Row, best: Row | None) -> dict[str, float | None] | None:
    """Return how much worse B's own domain became, and as a share of what fine-tuning B costs."""
    if row.domain is None or reference.domain is None:
        return None
    losses = [
        None if r is None or r.domain is None else _loss(r.domain) for r in (row, reference, best)
    ]
    own, start, bound = losses
    assert own is not None and start is not None
    lost = None if bound is None else bound - start
    return {"loss": own - start, "share": (own - start) / lost if lost and lost > 0 else None}


def _loss(scores: Scores) -> float:
    return scores.values["cross-entropy" if scores.kind != "numbers" else "mean-squared-error"]


def _key(name: str) -> str:
    return name.replace("-", "_")
