"""Are given inputs fit for the models? Found out before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphrebase.errors import InputError, UsageError
from graphrebase.rebase.feeds import complete, in_both_vocabularies
from graphrebase.rebase.given import Arrays, Given
from graphrebase.runtime import Session, check_inputs, declared_inputs, whole
from graphrebase.runtime.limits import check_rows, check_running
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Structure

_CALLED = {"finetuned": "fine-tuned model", "target": "target"}


def check_given(
    given: Given,
    structures: Mapping[str, Structure],
    vocabularies: Vocabularies | None,
    *,
    probes: Path | None,
    keep: Path | None,
) -> None:
    """Check probes, which are the fine-tuned model's inputs, and keep data, the target's.

    Every model runs on both, so that both have to be inside the tables and lengths of all. A model
    that onnxruntime does not run on anything is not the inputs' fault.

    Args:
        given: the inputs.
        structures: of base, finetuned and target.
        vocabularies: of A and B, where they differ.
        probes: the file of the probes.
        keep: the file of the keep data.

    Raises:
        InputError: they do not fit.
    """
    sessions = _sessions(structures) if given.probes or given.keep else {}
    for arrays, path, owner in (
        (given.probes, probes, "finetuned"),
        (given.keep, keep, "target"),
    ):
        if arrays is None:
            continue
        where = str(path)
        check_inputs(arrays, declared_inputs(structures[owner].graph), where=where)
        check_rows(arrays, structures[owner].graph, model=_CALLED[owner], where=where)
        old, new, _ = in_both_vocabularies(arrays, vocabularies, new=owner == "target")
        for name, translated in (("finetuned", old), ("target", new)):
            graph = structures[name].graph
            check_rows(translated, graph, model=_CALLED[name], where=where)
            feed = _completed(sessions.get(name), translated, where, own=name == owner)
            if name in sessions and feed is not None:
                check_running(sessions[name], graph, feed, model=_CALLED[name], where=where)


def _sessions(structures: Mapping[str, Structure]) -> dict[str, Session]:
    """Return sessions of the models that onnxruntime can open."""
    found = {}
    for name in _CALLED:
        try:
            found[name] = whole(structures[name].model.path, structures[name].graph)
        except (InputError, UsageError):
            continue
    return found


def _completed(session: Session | None, arrays: Arrays, where: str, *, own: bool) -> Arrays | None:
    """Return all inputs; None where a model has others than the one that the arrays are for."""
    if session is None:
        return None
    try:
        return complete(session, arrays)
    except InputError as error:
        if not own:
            return None
        raise InputError(error.message, where=where, hint=error.hint) from error
