"""B's graph with a head that only A_ft has: B's up to its last state, then A_ft's head nodes.

The state is what a head reads of a residual stream: the output of the norm after its last block,
or the stream itself. The nodes of A_ft after it are put behind B's, which stay byte for byte.
Their weights are the template's to fill: maps of the state in B's width, the rest as A_ft has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from graphrebase.errors import MismatchError
from graphrebase.io import read_model, scratch_folder
from graphrebase.io.graft import Graft, needed, reads, write_grafted
from graphrebase.rebase.ends import Stream, find_streams, head_roles, state_value
from graphrebase.structure import Role, Structure, find_structure

_HINT = "use --template finetuned where sizes agree, or add the head to the target by hand"
_BODY = ("attention", "mlp", "embedding")


@dataclass(frozen=True, slots=True)
class Grafted:
    """A graph that lives in a temporary folder, for as long as this object does."""

    structure: Structure
    folder: tempfile.TemporaryDirectory[str]


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose graph the output has.

    Attributes:
        template: ``finetuned`` or ``target``.
        structure: of the graph.
        grafted: the folder it lives in, where it is B's with A_ft's head.
    """

    template: str
    structure: Structure
    grafted: Grafted | None = None


def new_heads(finetuned: Structure, target: Structure) -> list[str]:
    """Return the head roles of A_ft for which B has no place: none, or other classes."""
    return [
        name
        for name, role in finetuned.roles.items()
        if role.kind == "head" and not _has_place(role, target)
    ]


def _has_place(role: Role, target: Structure) -> bool:
    """Tell whether B has a head role with the same classes, its other axes in any size."""
    own = target.roles.get(role.name)
    return own is not None and [
        size for axis, size in zip(role.axes, role.view.shape, strict=True) if axis is None
    ] == [size for axis, size in zip(own.axes, own.view.shape, strict=True) if axis is None]


def graft_head(
    finetuned: Structure, target: Structure, residual: str, beside: Path | None = None
) -> Grafted:
    """Return B's graph with A_ft's head.

    Args:
        finetuned: A_ft.
        target: B.
        residual: residual mode of the structure.
        beside: a file in whose folder there is room; the system's folder by default.

    Raises:
        MismatchError: the head cannot be told from the rest, or does not fit B's graph.
    """
    head = _Head.of(finetuned, target)
    folder = scratch_folder(beside)
    path = write_grafted(target.model, Path(folder.name), head.graft())
    structure = find_structure(read_model(path), residual=residual)
    lost = [n for n, r in finetuned.roles.items() if r.kind == "head" and n not in structure.roles]
    if lost:
        raise MismatchError(
            f"the target's graph with the fine-tuned model's head is not understood: {lost[0]} "
            "is not found again",
            where=f"{finetuned.model.path} and {target.model.path}",
            hint=_HINT,
        )
    return Grafted(structure, folder)


def _streams(finetuned: Structure, target: Structure) -> list[tuple[Stream, Stream]]:
    return list(zip(find_streams(finetuned), find_streams(target), strict=True))


@dataclass(frozen=True, slots=True)
class _Head:
    """A_ft's nodes after its last states.

    Attributes:
        states: B's value by A_ft's, per stream.
        places: indices of A_ft's nodes.
        outputs: A_ft's outputs that these give; the others are B's own.
    """

    finetuned: Structure
    target: Structure
    states: Mapping[str, str]
    places: tuple[int, ...]
    outputs: frozenset[str]

    @classmethod
    def of(cls, finetuned: Structure, target: Structure) -> _Head:
        """Find the head.

        Raises:
            MismatchError: it cannot be told from the rest.
        """
        states = {}
        for one, other in _streams(finetuned, target):
            pair = state_value(finetuned, one), state_value(target, other)
            if None in pair or pair[0] is None or pair[1] is None:
                owner = finetuned if pair[0] is None else target
                raise _refusal(owner, "what a head reads of the last block was not found")
            states[pair[0]] = pair[1]
        graph = finetuned.model.proto.graph
        own = _after(graph, set(states))
        outputs = frozenset(x.name for x in graph.output if x.name in own)
        chosen, names = needed(graph, sorted(outputs), set(states))
        head = cls(finetuned, target, states, tuple(sorted(chosen)), outputs)
        head.check(names)
        return head

    def nodes(self) -> list[onnx.NodeProto]:
        """Return A_ft's head nodes."""
        return [self.finetuned.model.proto.graph.node[place] for place in self.places]

    def check(self, names: Iterable[str]) -> None:
        """Refuse a head that is more than nodes after the last states."""
        roles = {r.view.tensor: r for r in self.finetuned.roles.values() if r.kind in _BODY}
        inside = sorted(roles[n].name for n in names if n in roles)
        if inside or not self.places:
            what = f"also reads {inside[0]}" if inside else "is not found"
            raise _refusal(self.finetuned, f"its head {what}")
        functions = {(f.domain, f.name) for f in self.finetuned.model.proto.functions}
        for node in self.nodes():
            if (node.domain, node.op_type) in functions or any(
                a.HasField("g") or a.graphs for a in node.attribute
            ):
                raise _refusal(self.finetuned, f"its head uses {node.op_type}, a graph of its own")
            _check_operator(self.finetuned, self.target, node)

    def graft(self) -> Graft:
        """Return what changes in B's graph."""
        theirs, mine = self.finetuned.model.proto.graph, self.target.model.proto.graph
        rest = [x.name for x in theirs.output if x.name not in self.outputs]
        missing = sorted(set(rest) - {x.name for x in mine.output})
        if missing:
            raise _refusal(self.target, f"it has no output '{missing[0]}'")
        kept, names = needed(mine, [*self.states.values(), *rest], set())
        read = {n for place in kept for n in reads(mine.node[place])} | set(self.states.values())
        renamed = self._renamed(names | {n for i in kept for n in mine.node[i].output})
        given = {x.name for x in mine.input}
        wanted = {n for node in self.nodes() for n in node.input}
        return Graft(
            frozenset(kept),
            tuple(self._copied(node, renamed) for node in self.nodes()),
            tuple(self._tensors(wanted, renamed)),
            tuple(x for x in theirs.input if x.name in wanted - given - self._weights()),
            tuple(self._output(x, renamed) for x in theirs.output),
            tuple(self._opsets()),
            frozenset(_named(mine) - read - set(rest)),
        )

    def _weights(self) -> set[str]:
        return set(self.finetuned.model.tensors)

    def _renamed(self, taken: set[str]) -> dict[str, str]:
        """Return B's names of A_ft's values: states are B's, others keep theirs if it is free."""
        graph = self.finetuned.model.proto.graph
        inputs = {x.name for x in graph.input} - self._weights()
        found = dict(self.states)
        taken = taken | inputs
        order = [
            *(n for n in self.outputs),
            *(n for x in self.nodes() for n in (*x.input, *x.output)),
        ]
        for name in dict.fromkeys(order):
            if not name or name in found or name in inputs:
                continue
            found[name] = _free(name, taken)
            taken.add(found[name])
        return found

    def _copied(self, node: onnx.NodeProto, renamed: Mapping[str, str]) -> onnx.NodeProto:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        for names in (result.input, result.output):
            names[:] = [renamed.get(name, name) for name in names]
        taken = {x.name for x in self.target.model.proto.graph.node}
        result.name = _free(node.name, taken) if node.name else ""
        if node.op_type == "Constant" and node.output[0] in self.finetuned.model.tensors:
            value = next(a for a in result.attribute if a.name == "value")
            value.t.CopyFrom(self._tensor(node.output[0], value.t.name))
        return result

    def _output(
        self, output: onnx.ValueInfoProto, renamed: Mapping[str, str]
    ) -> onnx.ValueInfoProto:
        result = onnx.ValueInfoProto()
        result.CopyFrom(output)
        result.name = renamed.get(output.name, output.name)
        return result

    def _tensors(self, wanted: set[str], renamed: Mapping[str, str]) -> Iterable[onnx.TensorProto]:
        for tensor in self.finetuned.model.proto.graph.initializer:
            if tensor.name in wanted:
                yield self._tensor(tensor.name, renamed[tensor.name])

    def _tensor(self, name: str, renamed: str) -> onnx.TensorProto:
        """Return a tensor of A_ft, as wide as B where it maps the state."""
        array = self.finetuned.model.tensors[name].load()
        for role in self.finetuned.roles.values():
            if role.view.tensor == name:
                array = self._resized(role, array)
        return numpy_helper.from_array(array, renamed)

    def _resized(self, role: Role, array: np.ndarray) -> np.ndarray:
        for one, other in _streams(self.finetuned, self.target):
            last = one.points[-1]
            if one.width == other.width or last not in role.axes:
                continue
            plain = role.view.whole and array.ndim == 2 and role.view.matrix == array.shape
            if role.name not in head_roles(self.finetuned, last) or not plain:
                raise _refusal(
                    self.finetuned, f"{role.name} of its head cannot be made for another width"
                )
            shape = (len(array), other.width)
            if role.view.transposed:
                shape = (other.width, array.shape[1])
            return np.zeros(shape, array.dtype)
        return array

    def _opsets(self) -> Iterable[onnx.OperatorSetIdProto]:
        known = _versions(self.target)
        used = {_domain(node.domain) for node in self.nodes()}
        for domain, version in _versions(self.finetuned).items():
            if domain in used and domain not in known:
                yield helper.make_opsetid(domain, version)


def _after(graph: onnx.GraphProto, values: set[str]) -> set[str]:
    """Return everything that follows from some values, themselves included."""
    found = set(values)
    for node in graph.node:
        if any(name in found for name in reads(node)):
            found.update(name for name in node.output if name)
    return found


def _named(graph: onnx.GraphProto) -> set[str]:
    """Return the initializers and the values with a known shape."""
    return {x.name for x in graph.initializer} | {x.name for x in graph.value_info}


def _free(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}_head{number}" in taken:
        number += 1
    return f"{name}_head{number}"


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _versions(structure: Structure) -> dict[str, int]:
    return {_domain(x.domain): x.version for x in structure.model.proto.opset_import}


def _check_operator(finetuned: Structure, target: Structure, node: onnx.NodeProto) -> None:
    """Refuse an operator that means something else under B's operator set."""
    domain = _domain(node.domain)
    versions = [_versions(s).get(domain) for s in (finetuned, target)]
    if None in versions or versions[0] == versions[1]:
        return
    try:
        since = {
            defs.get_schema(node.op_type, version or 1, domain).since_version
            for version in versions
        }
    except defs.SchemaError:
        since = set()
    if len(since) != 1:
        raise MismatchError(
            f"the fine-tuned model's head uses {node.op_type} of operator set {versions[0]}, which "
            f"differs in that of the target, {versions[1]}",
            where=f"{finetuned.model.path} and {target.model.path}",
            hint="export both with one opset",
        )


def _refusal(structure: Structure, reason: str) -> MismatchError:
    return MismatchError(
        f"the fine-tuned model's head cannot be put on the target's graph: {reason}",
        where=str(structure.model.path),
        hint=_HINT,
    )
