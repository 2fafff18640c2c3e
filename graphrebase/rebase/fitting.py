"""Fit a fine-tuning onto B: models, probes and the closed form brought together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphrebase.align import Alignment, Details
from graphrebase.align.body import FloatArray
from graphrebase.align.fit import find_fit
from graphrebase.align.recipe import FitOptions, Models
from graphrebase.rebase.body import Reader, build_body
from graphrebase.rebase.folded import FittedMove, folded_move
from graphrebase.rebase.runs import Runs
from graphrebase.runtime import Session, generate, load_npz, probe_kind, split_labels
from graphrebase.structure import Structure

LOG = logging.getLogger(__name__)
GENERATED_IMAGE_KEEP = 0.1
Arrays = Mapping[str, np.ndarray]


def fit_models(
    structures: Mapping[str, Structure], probes: Path | None, keep: Path | None, seed: int
) -> tuple[FittedMove, Details]:
    """Return the changes of B with the maps they rest on, and how well these fit.

    Args:
        structures: of base, finetuned and target.
        probes: npz of unlabelled inputs of the task; None to generate them.
        keep: npz of inputs of B's own domain; None to generate them.
        seed: of everything random.

    Raises:
        InputError: the data cannot be read or do not fit the models.
    """
    base, finetuned, target = (structures[n] for n in ("base", "finetuned", "target"))
    body = build_body(base, target)
    given, kept, options = _probes(structures, probes, keep, seed)
    runs = Runs(body, {"base": base, "finetuned": finetuned, "target": target}, given, kept)

    def head_changes(alignment: Alignment) -> dict[str, FloatArray]:
        moved = folded_move(base, finetuned, target, alignment, body)
        roles = [r for t in body.towers for h in t.heads for r in (h.weight, h.bias)]
        found = {
            role: moved.own_change(role)
            for role in roles
            if role.startswith("head.tokens")
            and all(role in s.roles for s in (base, finetuned, target))
            and finetuned.roles[role].view.shape == base.roles[role].view.shape
        }
        return {role: change for role, change in found.items() if change is not None}

    empty = folded_move(base, finetuned, target, Alignment({}, "fit"), body)
    fitted = find_fit(
        body,
        Models(Reader(base), Reader(finetuned), Reader(target)),
        runs,
        options,
        head_changes,
        empty.tied,
    )
    moved = replace(empty, alignment=Alignment(fitted.maps, "fit"))
    return FittedMove(fitted.changes, moved), fitted.details


def _probes(
    structures: Mapping[str, Structure], probes: Path | None, keep: Path | None, seed: int
) -> tuple[Arrays, Arrays, FitOptions]:
    """Return given probes and keep probes, or generated ones, and options that suit them."""
    given = {} if probes is None else split_labels(load_npz(probes))[0]
    kept = {} if keep is None else split_labels(load_npz(keep))[0]
    options = FitOptions()
    if given and kept:
        return given, kept, options
    base, finetuned, target = (
        Session(structures[n].model.path) for n in ("base", "finetuned", "target")
    )
    graph = structures["finetuned"].graph
    made = generate(
        base, finetuned, target, graph, seed=seed, note=lambda text: LOG.info("probes: %s", text)
    )
    if not kept and made.kind == "image":
        options = replace(options, keep=GENERATED_IMAGE_KEEP)
    return given or made.task, kept or made.keep, options


def can_probe(finetuned: Structure) -> bool:
    """Return whether useful probes can be made for a model: it is a language or vision model.

    Raises:
        UsageError: onnxruntime is not installed.
        InputError: onnxruntime refuses the model.
    """
    return probe_kind(Session(finetuned.model.path), finetuned.graph) != "other"
