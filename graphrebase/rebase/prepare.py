"""Everything of a rebase before the output: alignment, task vector, plan, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphrebase.align import load as load_alignment
from graphrebase.errors import MismatchError
from graphrebase.io import check_output, read_model
from graphrebase.progress import Progress, silent
from graphrebase.rebase.checking import check_given
from graphrebase.rebase.ends import find_counterparts
from graphrebase.rebase.fitting import ProbeSource, recombined_texts
from graphrebase.rebase.given import read_given
from graphrebase.rebase.graft import Holder, graft_head, new_heads
from graphrebase.rebase.judging import judged
from graphrebase.rebase.pairing import check_architecture, check_family, pair, same_sizes
from graphrebase.rebase.prepared import Prepared, with_heads
from graphrebase.rebase.rows import Matched, match_rows
from graphrebase.rebase.settings import Settings
from graphrebase.rebase.task import Case, find_task
from graphrebase.runtime.vocabulary import read_token_map
from graphrebase.structure import Structure, find_structure


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
        check_output(output, [f for m in models.values() for f in m.files], force=force)
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
        weights=structures["target"].weights,
        texts=recombined_texts(structures),
    )
    check_given(
        given, structures, matched.vocabularies,
        probes=settings.probes, keep=settings.keep_data,
    )  # fmt: skip
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
    return judged(with_heads(case, find_task(case, stored)), output)


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


def _scores_tokens(finetuned: Structure) -> bool:
    return any(name.startswith("head.tokens") for name in finetuned.roles)
