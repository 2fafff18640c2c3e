"""Change the basis of one model: the same function with its hidden units in another order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphrebase.align import Alignment
from graphrebase.align.maps import is_matrix
from graphrebase.errors import MismatchError, OutputError, VerificationError
from graphrebase.io import Model, check_output, is_float, scoped_graphs, write_file, write_model
from graphrebase.structure import Skip, Structure
from graphrebase.symmetry import Symmetry, leaves, permute_array, random_permutations
from graphrebase.symmetry.axes import Axis

Permutations = Mapping[Axis, np.ndarray]


@dataclass(frozen=True, slots=True)
class Basis:
    """A change of basis of one model.

    Attributes:
        symmetry: the algebra whose free axes are permuted.
        permutations: index vector per free axis.
        gathers: index vector of every skip edge that needs a Gather (per-point alignments).
    """

    symmetry: Symmetry
    permutations: Permutations
    gathers: tuple[tuple[Skip, np.ndarray], ...] = ()

    def replacements(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return, for every constant that moves, a function that gives its new values."""
        moved: dict[str, Callable[[], np.ndarray]] = {}
        for name, axes in self.symmetry.constants.items():
            if any(x in self.permutations for axis in axes for x in leaves(axis)):
                moved[name] = partial(self._permuted, name)
        return moved

    def _permuted(self, name: str) -> np.ndarray:
        array = self.symmetry.graph.constants[name].load()
        if is_float(array.dtype) and np.isnan(np.asarray(array, np.float32)).any():
            raise VerificationError(
                "the weights hold NaN values",
                where=f"{self.symmetry.graph.model.path}, tensor '{name}'",
                hint="export the model again from a healthy checkpoint",
            )
        axes = self.symmetry.constants[name]
        return permute_array(array, axes, self.permutations, self.symmetry.solver)


def random_basis(symmetry: Symmetry, seed: int = 0) -> Basis:
    """Return a random element of every symmetry group, never the identity."""
    free = [leaf for group in symmetry.groups for leaf in group.leaves]
    return Basis(symmetry, random_permutations(free, seed))


def aligned_basis(structure: Structure, alignment: Alignment) -> Basis:
    """Return the change of basis that an alignment makes to the model it starts from.

    Raises:
        MismatchError: the alignment moves something that this model must keep in order.
    """
    permutations: dict[Axis, np.ndarray] = {}
    for name, found in alignment.maps.items():
        if is_matrix(found):
            raise MismatchError(
                f"the alignment turns {name} by a matrix, which is no order of its indices",
                where=str(structure.model.path),
                hint="permute with an alignment found by transfusion",
            )
        if np.array_equal(found, np.broadcast_to(np.arange(found.shape[-1]), found.shape)):
            continue
        if name not in structure.leaves or name in structure.fixed:
            raise MismatchError(
                f"the alignment moves {name}, which must keep its order in this model",
                where=str(structure.model.path),
                hint="if it is a hidden-state output or a cache, permute with --free latent,state",
            )
        permutations.update(_leaf_permutations(structure, alignment, name))
    gathers = tuple(
        (skip, index)
        for skip in structure.skips
        if (index := _between(alignment, skip)) is not None
    )
    return Basis(structure.space_symmetry, permutations, gathers)


def _leaf_permutations(
    structure: Structure, alignment: Alignment, name: str
) -> dict[Axis, np.ndarray]:
    """Return a space's map per free axis: stored per head of B, wanted per head of A."""
    found, free = alignment.maps[name], structure.leaves[name]
    over = structure.spaces[name].over
    if found.ndim == 1:
        return {free[0].root: found}
    heads = alignment.maps[over] if over else np.arange(len(free))
    return {free[int(source)].root: found[j] for j, source in enumerate(heads)}


def _between(alignment: Alignment, skip: Skip) -> np.ndarray | None:
    """Return the index vector that takes the stream before a block to the basis after it."""
    before = alignment.maps.get(skip.before or "")
    after = alignment.maps.get(skip.after or "")
    if before is None or after is None or np.array_equal(before, after):
        return None
    return np.argsort(before)[after]


def write_basis(
    model: Model,
    basis: Basis,
    output: Path,
    metadata: Mapping[str, str],
    *,
    force: bool = False,
) -> int:
    """Write the permuted model; returns the number of tensors whose values changed.

    Without Gathers only weights change and they are streamed. With them the model is edited as a
    whole, in memory.
    """
    changed: set[str] = set()

    def counted(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        new = make()
        if not np.array_equal(new, model.tensors[name].load()):
            changed.add(name)
        return new

    moved = {name: partial(counted, name, make) for name, make in basis.replacements().items()}
    if basis.gathers:
        _write_with_gathers(model, basis, moved, output, metadata, force=force)
    else:
        write_model(model, output, moved, metadata, force=force)
    return len(changed)


def _write_with_gathers(
    model: Model,
    basis: Basis,
    moved: Mapping[str, Callable[[], np.ndarray]],
    output: Path,
    metadata: Mapping[str, str],
    *,
    force: bool,
) -> None:
    check_output(output, model.files, force=force)
    edited = with_gathers(onnx.load(str(model.path)), basis, moved)
    for key, value in metadata.items():
        edited.metadata_props.add(key=key, value=value)
    try:
        data = edited.SerializeToString()
    except ValueError as error:
        raise OutputError(
            "with its Gathers the model is too large for one file",
            where=str(output),
            hint="align with --residual shared, which needs none",
        ) from error
    write_file(output, data)


def with_gathers(
    proto: onnx.ModelProto, basis: Basis, moved: Mapping[str, Callable[[], np.ndarray]]
) -> onnx.ModelProto:
    """Return a whole model with its weights replaced and a Gather on every skip that needs one."""
    graphs = dict(scoped_graphs(proto.graph))
    for scope, graph in graphs.items():
        _replace(graph, scope, moved)
    for number, (skip, index) in enumerate(basis.gathers):
        graph, position = next(
            (graph, i)
            for scope, graph in graphs.items()
            for i, node in enumerate(graph.node)
            if skip.node in [scope + name for name in node.output]
        )
        add = graph.node[position]
        name = f"graphrebase_skip_{number}"
        proto.graph.initializer.append(numpy_helper.from_array(index.astype(np.int64), name))
        gather = helper.make_node(
            "Gather", [add.input[skip.position], name], [f"{name}_output"], name, axis=-1
        )
        add.input[skip.position] = f"{name}_output"
        graph.node.insert(position, gather)
    return proto


def _replace(
    graph: onnx.GraphProto, scope: str, moved: Mapping[str, Callable[[], np.ndarray]]
) -> None:
    """Replace the values of one graph's initializers and Constants."""
    stored = {scope + tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and scope + node.output[0] in moved:
            stored[scope + node.output[0]] = node.attribute[0].t
    for name, tensor in stored.items():
        if name in moved:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(moved[name]()), tensor.name))


def leave_one_out(basis: Basis, skipped: Sequence[str]) -> dict[str, Callable[[], np.ndarray]]:
    """Return the replacements without some constants: the control that a check must notice."""
    return {name: make for name, make in basis.replacements().items() if name not in skipped}
