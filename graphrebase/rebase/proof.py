"""Proof by running that a change of basis leaves what a model computes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphrebase.errors import VerificationError
from graphrebase.io import Model, write_model
from graphrebase.rebase.basis import Basis, leave_one_out
from graphrebase.rebase.interface import moved_inputs, moved_outputs
from graphrebase.runtime import (
    Comparison,
    NoKernelError,
    Session,
    equivalent,
    model_tolerance,
    tolerance,
    two_sizes,
)
from graphrebase.structure import Structure
from graphrebase.structure.summary import group_names

Arrays = Mapping[str, np.ndarray]

#: Controls of a quantised model: up to this size in bytes, this many runs for a kind of group.
_LARGE = 1 << 28
_CONTROLS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """How a permuted model was compared with the original.

    Attributes:
        compared: the worst output; None where the model could not be run.
        tolerance: relative error allowed.
        note: what is special about the check.
        not_seen: kinds of groups that the outputs do not depend on.
    """

    compared: Comparison | None
    tolerance: float
    note: str = ""
    not_seen: tuple[str, ...] = ()


def check_basis(structure: Structure, output: Path, basis: Basis, seed: int) -> Check:
    """Run both models; a model that onnxruntime has no kernels for stays unchecked, and says so.

    Raises:
        VerificationError: the outputs differ.
    """
    model = structure.model
    limit = model_tolerance(model)
    try:
        reference, other = Session(model.path), Session(output)
    except NoKernelError as error:
        return Check(None, limit, f"not checked by running: {error.message}")
    note = ""
    if reference.widened:
        note = "run as float32: onnxruntime cannot run it in bfloat16"
        limit = tolerance([np.dtype(np.float32)])
    sets = two_sizes(reference, structure.graph, seed)
    compared = _compared(reference, other, sets, basis)
    if not compared.relative <= limit:
        raise VerificationError(
            f"the permuted model computes something else: error {compared.relative:.2e} of the "
            f"output scale in '{compared.worst_output}', {limit:.0e} allowed",
            where=str(output),
            hint="please report this model: a symmetry was wrongly inferred",
        )
    hidden: tuple[str, ...] = ()
    size = sum(ref.nbytes for ref in model.tensors.values())
    if structure.quantized and not basis.gathers and size < _LARGE:
        control = output.with_name("control-" + output.name)
        hidden = tuple(_not_seen(structure, control, basis, reference, sets, limit))
    return Check(compared, limit, note, hidden)


def _not_seen(
    structure: Structure,
    control: Path,
    basis: Basis,
    reference: Session,
    sets: Sequence[Arrays],
    limit: float,
) -> Iterator[str]:
    """Yield the kinds of groups that the outputs do not depend on, so that no check sees them.

    Static quantisation of a mask of -3e38 gives its sum with the scores a scale that rounds every
    score to zero. One group of each kind is permuted on its own with one weight left behind.
    """
    names = group_names(structure)
    tried: set[str] = set()
    for group in basis.symmetry.groups:
        first = group.leaves[0].root
        kind = names[first][1] if first in names else "other"
        tensors = {member.tensor for member in group.members}
        moved = {
            x.root: basis.permutations[x.root] for x in group.leaves if x.root in basis.permutations
        }
        if kind in tried or len(tensors) < 2 or not moved:
            continue
        tried.add(kind)
        alone = Basis(basis.symmetry, moved)
        if not any(
            _changes(structure.model, control, alone, name, reference, sets, limit)
            for name in _largest(structure.model, tensors)
        ):
            yield kind


def _largest(model: Model, tensors: Iterable[str]) -> list[str]:
    """Return the few largest tensors of a group: its weights, not their scales and biases."""
    sizes = {name: model.tensors[name].nbytes for name in tensors}
    ordered = sorted(sizes, key=lambda name: (-sizes[name], name))
    return [name for name in ordered if 2 * sizes[name] >= sizes[ordered[0]]][:_CONTROLS]


def _changes(
    model: Model,
    control: Path,
    alone: Basis,
    left: str,
    reference: Session,
    sets: Sequence[Arrays],
    limit: float,
) -> bool:
    """Tell whether the outputs change where one group moves without one of its weights."""
    write_model(model, control, leave_one_out(alone, [left]), {}, force=True)
    found = _compared(reference, Session(control), sets, alone)
    return not found.relative <= limit


def _compared(
    reference: Session, other: Session, sets: Sequence[Arrays], basis: Basis
) -> Comparison:
    change = basis.symmetry, basis.permutations
    return equivalent(
        reference, other, sets, inputs=moved_inputs(*change), outputs=moved_outputs(*change)
    )
