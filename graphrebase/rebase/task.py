"""Which method a rebase takes, and the task vector that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphrebase.align import (
    Alignment,
    Details,
    check_fits,
    check_models,
)
from graphrebase.align.maps import identity_maps, is_matrix
from graphrebase.errors import InputError, MismatchError, UsageError, VerificationError
from graphrebase.progress import Progress, silent
from graphrebase.rebase.body import build_body
from graphrebase.rebase.fitting import ProbeSource, Probing, fit_models
from graphrebase.rebase.folded import folded_move
from graphrebase.rebase.graft import Holder
from graphrebase.rebase.methods import (
    Choice,
    align_by,
    choose,
    is_permuted,
    same_in_another_basis,
    with_lineage,
)
from graphrebase.rebase.pairing import (
    Pairing,
    build_problem,
    sizes,
)
from graphrebase.rebase.plan import TaskVector
from graphrebase.rebase.settings import Settings
from graphrebase.runtime.vocabulary import Vocabularies
from graphrebase.structure import Structure


@dataclass(frozen=True, slots=True)
class Case:
    """What a rebase starts from.

    Attributes:
        structures: of base, finetuned and target.
        pairing: the roles of base and target.
        settings: method and options.
        residual: residual mode, which a stored alignment may dictate.
        holder: whose graph the output has.
        hashes: content hashes of the three models.
        probes: finds inputs, if a method wants any.
        progress: told about every step of long work.
        names: A's roles by B's, where the two differ in size; else None.
        vocabularies: of A and B, where they differ; else None.
    """

    structures: Mapping[str, Structure]
    pairing: Pairing
    settings: Settings
    residual: str
    holder: Holder
    hashes: Mapping[str, str]
    probes: ProbeSource
    progress: Progress = silent
    names: Mapping[str, str] | None = None
    vocabularies: Vocabularies | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A fine-tuning on B.

    Attributes:
        alignment: the maps.
        why: why its method was chosen.
        vector: the task vector that it moves.
        known: the lineage that the plain weights show.
        probing: what it was fitted on; None if on nothing.
    """

    alignment: Alignment
    why: str
    vector: TaskVector
    known: Details | None = None
    probing: Probing | None = None


def find_task(case: Case, stored: Alignment | None) -> Task:
    """Return the task vector by a stored alignment, or by the method asked for.

    Raises:
        MismatchError: the stored alignment is of other models.
        UsageError: the method cannot be used with these options.
        InputError: probes do not fit the models.
    """
    if case.names is not None:
        return _fit_resized(case, stored)
    if stored is not None:
        check_models(stored, case.hashes["base"], case.hashes["target"])
        return Task(stored, "an alignment file was given", _task_vector(case, stored))
    case.progress("comparing weights", 0, 0)
    base, target = case.structures["base"], case.structures["target"]
    choice = choose(build_problem(base, target, case.pairing), case.settings)
    if choice.method == "fit":
        return _fit_on_probes(case, choice)
    if case.settings.method == "auto" and choice.method == "anchored":
        found = _fit_if_possible(case, choice)
        if isinstance(found, Task):
            return found
        choice = found
    return _aligned(case, choice)


def _fit_if_possible(case: Case, choice: Choice) -> Task | Choice:
    """Return a fit, or why there is none; permutations explain B better where it is A permuted.

    Probes that the user gave were checked before: what fails here is for the models.
    """
    try:
        build_body(case.structures["base"], case.structures["target"], residual=case.residual)
    except MismatchError as error:
        why = f"{choice.why}; neither fit nor anchored is possible: {error.message}"
        return replace(choice, method="transfusion", why=why)
    try:
        tried = _fit_if_it_runs(case, choice)
        if tried.method == "fit":
            task = _fit_on_probes(case, tried)
            if not is_permuted(task.alignment):
                return task
    except (UsageError, InputError, MismatchError, VerificationError) as error:
        tried = replace(choice, why=f"{choice.why}; fit was not possible: {error.message}")
    return replace(tried, method="anchored")


def _aligned(case: Case, choice: Choice) -> Task:
    """Return the task vector by an alignment of weights; `auto` has a second method to fall to."""
    base, target = case.structures["base"], case.structures["target"]
    settings, auto = case.settings, case.settings.method == "auto"
    case.progress(f"aligning ({choice.method})", 0, 0)
    try:
        found = align_by(base, target, case.pairing, settings, choice)
    except MismatchError as error:
        if not auto or choice.method != "anchored":
            raise
        why = f"{choice.why}; anchored was not possible: {error.message}"
        choice = replace(choice, method="transfusion", why=why)
        found = align_by(base, target, case.pairing, settings, choice)
    why = choice.why
    if auto and is_permuted(found):
        found, why = same_in_another_basis(base, target, case.pairing, settings, found)
    return Task(found, why, _task_vector(case, found), choice.known)


def _fit_resized(case: Case, stored: Alignment | None) -> Task:
    """Return a fit between models of different sizes, the only method that has maps for them."""
    base, target = case.structures["base"], case.structures["target"]
    method = "--alignment" if stored is not None else case.settings.method
    if method not in ("auto", "fit"):
        raise MismatchError(
            f"{method} needs models of one size: the base has {sizes(base)}, "
            f"the target {sizes(target)}",
            where=f"{base.model.path} and {target.model.path}",
            hint="use --method fit, which maps one size to another",
        )
    if not case.probes.useful():
        raise MismatchError(
            "base and target differ in size, which takes a fit, and no inputs can be made up for "
            "this kind of model",
            hint="give unlabelled inputs with --probes",
        )
    why = "asked for" if method == "fit" else "base and target differ in size"
    return _fit_on_probes(case, Choice("fit", why, None))


def naive_task(case: Case) -> Task | None:
    """Return the task vector as it is; None where the models are too different for that."""
    if case.names is not None:
        return None
    spaces = build_problem(case.structures["base"], case.structures["target"], case.pairing).spaces
    hashes = case.hashes["base"], case.hashes["target"]
    found = Alignment(identity_maps(spaces), "naive", {}, *hashes)
    try:
        return Task(found, "the task vector as it is", _task_vector(case, found))
    except MismatchError:
        return None


def fitted_again(case: Case, task: Task, probing: Probing) -> Task:
    """Return a fit on other probes."""
    return _fit(case, Choice("fit", task.why, task.known), probing)


def _fit_if_it_runs(case: Case, choice: Choice) -> Choice:
    """Return the choice of `fit`, if there are probes for it or probes worth making."""
    if case.settings.residual == "shared":
        return replace(choice, why=f"{choice.why}; fit needs a map per residual point")
    if not case.probes.useful():
        return replace(choice, why=f"{choice.why}; fit needs --probes for this kind of model")
    if case.probes.masked():
        return replace(choice, why=f"{choice.why}; fit does little for models that fill masks in")
    return replace(choice, method="fit", why=f"{choice.why}, and the models run here")


def _task_vector(case: Case, found: Alignment) -> TaskVector:
    """Return the task vector that an alignment moves, after checking that it fits the models."""
    base, finetuned, target = (case.structures[n] for n in ("base", "finetuned", "target"))
    spaces, folded = case.pairing.spaces, None
    if any(is_matrix(value) for value in found.maps.values()):
        body = build_body(base, target, residual=case.residual)
        check_fits(found, body.spaces)
        spaces, folded = body.spaces, folded_move(base, finetuned, target, found, body)
    else:
        check_fits(found, build_problem(base, target, case.pairing).spaces)
    axes = case.pairing.axes.items()
    return TaskVector(
        base,
        finetuned,
        target,
        found,
        {name: space for name, space in spaces.items() if name in found.maps},
        {n: tuple(a if a in found.maps else None for a in x) for n, x in axes},
        case.settings.alpha,
        folded,
    )


def _fit_on_probes(case: Case, choice: Choice) -> Task:
    """Return a fit; probes, which take long to make, only for models that can be fitted."""
    base, target = case.structures["base"], case.structures["target"]
    one, other = (base, target) if case.names is None else (target, base)
    build_body(one, other, names=case.names)
    return _fit(case, choice, case.probes.get())


def _fit(case: Case, choice: Choice, probing: Probing) -> Task:
    """Return the alignment of a fit, and what it solved for as a task vector."""
    if case.settings.residual == "shared":
        raise UsageError("fit needs a map per residual point", hint="use --residual per-point")
    structures = case.structures
    move, details = fit_models(structures, probing, case.progress, case.names, case.vocabularies)
    found = Alignment(
        move.folded.alignment.maps,
        "fit",
        {"rounds": details.sweeps, "residual": "per-point"},
        structures["base"].model.sha256(),
        structures["target"].model.sha256(),
        with_lineage(details, choice.known),
    )
    spaces = {n: s for n, s in move.folded.body.spaces.items() if n in found.maps}
    axes = case.pairing.axes.items()
    vector = TaskVector(
        structures["base"],
        structures["finetuned"],
        structures["target"],
        found,
        spaces,
        {n: tuple(a if a in spaces else None for a in x) for n, x in axes},
        case.settings.alpha,
        move,
        case.names is not None,
    )
    return Task(found, choice.why, vector, choice.known, probing)
