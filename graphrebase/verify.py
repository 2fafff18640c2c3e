"""Proof: permuted models compute the same, structures are untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrebase.align import check_models
from graphrebase.align import load as load_alignment
from graphrebase.errors import MismatchError, VerificationError
from graphrebase.graph import build_graph
from graphrebase.io import Model, check_output, read_model, scratch_folder, structure_difference
from graphrebase.rebase.basis import Basis, aligned_basis, random_basis, write_basis
from graphrebase.rebase.interface import describe
from graphrebase.rebase.proof import check_basis
from graphrebase.runtime import (
    Comparison,
    Session,
    cast_inputs,
    check_inputs,
    equivalent,
    load_npz,
    model_tolerance,
    split_labels,
    two_sizes,
)
from graphrebase.runtime.batches import batch_of, sample_count, whole_batches
from graphrebase.structure import Structure, find_structure
from graphrebase.structure.summary import group_names

Arrays = Mapping[str, np.ndarray]


def permute_model(
    model: Path,
    output: Path,
    *,
    alignment: Path | None = None,
    free: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
) -> dict[str, Any]:
    """Write a model in another basis and check that it computes the same.

    Args:
        model: the model.
        output: the file to write.
        alignment: apply this alignment, which must start from the model; else a random element of
            every symmetry group.
        free: interface axes that may move; their permutation is part of the result.
        seed: of the random permutations and the inputs of the check.
        force: replace an existing output.

    Raises:
        MismatchError: the alignment is of another model, or moves what must keep its order.
        VerificationError: the outputs differ; nothing is written.
    """
    source = read_model(model)
    if alignment is None:
        structure = find_structure(source, free=free)
        basis = random_basis(structure.symmetry, seed)
        origin = f"random, seed {seed}"
    else:
        structure, basis = _aligned(source, alignment, free)
        origin = f"alignment {alignment.name}"
    record = {"graphrebase": f"permuted: {origin}"}
    check_output(output, source.files, force=force)
    with scratch_folder(output) as folder:
        trial = Path(folder) / output.name
        changed = write_basis(source, basis, trial, record)
        check = check_basis(structure, trial, basis, seed)
    write_basis(source, basis, output, record, force=force)
    return {
        "model": str(model),
        "output": str(output),
        "origin": origin,
        "groups_permuted": _groups_moved(structure, basis),
        "initializers_changed": changed,
        "gathers_added": len(basis.gathers),
        "checked": check.compared is not None,
        "check_note": check.note,
        "not_seen": list(check.not_seen),
        "max_abs_error": check.compared.max_abs_error if check.compared else None,
        "relative_error": check.compared.relative if check.compared else None,
        "tolerance": check.tolerance,
        "interface": describe(basis.symmetry, basis.permutations),
    }


def _aligned(model: Model, path: Path, free: Sequence[str]) -> tuple[Structure, Basis]:
    found = load_alignment(path)
    check_models(found, model.sha256(), found.sha256_b)
    residual = str(found.options.get("residual", "shared"))
    structure = find_structure(model, residual=residual, free=free)
    return structure, aligned_basis(structure, found)


def _groups_moved(structure: Structure, basis: Basis) -> dict[str, int]:
    """Return how many groups of each kind were permuted."""
    names = group_names(structure)
    counts: dict[str, int] = {}
    for group in basis.symmetry.groups:
        moved = [leaf for leaf in group.leaves if leaf.root in basis.permutations]
        if moved:
            kind = names[moved[0].root][1] if moved[0].root in names else "other"
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def verify_function(
    model: Path, other: Path, *, inputs: Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Compare the outputs of two models, on given inputs or on synthetic ones of two sizes.

    Raises:
        MismatchError: the models have different inputs or outputs.
    """
    source = read_model(model)
    reference, compared = Session(model), Session(other)
    for kind, one, two in (
        ("inputs", reference.inputs, compared.inputs),
        ("outputs", reference.outputs, compared.outputs),
    ):
        if set(one) != set(two):
            raise MismatchError(
                f"the models have different {kind}: {', '.join(one)} and {', '.join(two)}",
                where=f"{model} and {other}",
                hint="only models with the same inputs and outputs can be compared",
            )
    if inputs is None:
        result = equivalent(reference, compared, two_sizes(reference, build_graph(source), seed))
    else:
        arrays = split_labels(load_npz(inputs))[0]
        check_inputs(arrays, reference.inputs, where=str(inputs))
        result = _compared_on(cast_inputs(reference, arrays), reference, compared)
    limit = max(model_tolerance(source), model_tolerance(read_model(other)))
    return {
        "model": str(model),
        "other": str(other),
        "passed": bool(result.relative <= limit),
        "max_abs_error": result.max_abs_error,
        "relative_error": result.relative,
        "tolerance": limit,
        "worst_output": result.worst_output,
    }


def _compared_on(arrays: Arrays, reference: Session, compared: Session) -> Comparison:
    """Compare two models on inputs: all at once, or as many samples at a time as they take."""
    try:
        return equivalent(reference, compared, [arrays])
    except VerificationError as failure:
        if sample_count(arrays) != max((len(x) for x in arrays.values() if x.ndim), default=0):
            raise
        sizes = {batch_of(session, arrays) for session in (reference, compared)} - {None}
        if len(sizes) != 1:
            raise failure from None
        return equivalent(reference, compared, list(whole_batches(arrays, sizes.pop() or 1)))


def verify_structure(model: Path, other: Path) -> dict[str, Any]:
    """Compare everything but weights, provenance and where external data lies."""
    differences = structure_difference(read_model(model), read_model(other))
    return {
        "model": str(model),
        "other": str(other),
        "passed": not differences,
        "differences": differences,
    }
