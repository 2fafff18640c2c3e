"""The residual streams of a model and what lies at their ends: also beside those of another size.

Inputs and classes mean the same whatever the size of a model. So do the norm after the last block
and the linear maps that read it. Everything between is a matter of depth and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphrebase.align.body import Inputs
from graphrebase.structure import Attention, Mlp, Role, Structure
from graphrebase.structure.points import point_names
from graphrebase.structure.wiring import NormFacts, before_norm, norm_facts


@dataclass(frozen=True, slots=True)
class Stream:
    """A residual stream of a model.

    Attributes:
        blocks: its blocks in order.
        edges: the points that each block reads and writes.
    """

    blocks: tuple[Attention | Mlp, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def points(self) -> tuple[str, ...]:
        """The points in order, from before the first block to after the last."""
        return tuple(dict.fromkeys(point for edge in self.edges for point in edge))

    @property
    def width(self) -> int:
        """Size of the stream."""
        block = self.blocks[0]
        return (block.output.linear if isinstance(block, Attention) else block.down).out_width

    @property
    def start(self) -> int:
        """Index of the node that first reads it."""
        block = self.blocks[0]
        return (block.query.linear if isinstance(block, Attention) else block.up).node.index


def find_streams(structure: Structure, residual: str = "per-point") -> list[Stream]:
    """Return the residual streams of a model."""
    named = point_names(structure.edges, structure.towers, residual)
    found: dict[int, list[tuple[Attention | Mlp, tuple[str, str]]]] = {}
    for block, tower, (read, _, written) in zip(
        structure.blocks, structure.towers, named, strict=True
    ):
        found.setdefault(tower, []).append((block, (read, written)))
    return [
        Stream(tuple(b for b, _ in found[tower]), tuple(e for _, e in found[tower]))
        for tower in sorted(found)
    ]


def input_roles(structure: Structure, stream: Stream) -> Inputs:
    """Sort the roles that write to the first point of a stream by what they are."""
    first = stream.points[0]
    kinds: dict[tuple[str, tuple[str | None, ...]], list[str]] = {
        ("embedding", (None, first)): [],
        ("embedding", (first, None)): [],
        ("embedding", (first,)): [],
        ("other", (first,)): [],
    }
    for name, role in structure.roles.items():
        if role.order <= stream.start and (role.kind, role.axes) in kinds:
            kinds[role.kind, role.axes].append(name)
    return Inputs(*map(tuple, kinds.values()))


def head_roles(structure: Structure, last: str) -> list[str]:
    """Return the weights of the linear maps that read the last point of a stream.

    A head that shares its stored tensor with an embedding table carries the table's point in the
    algebra, where a model has one stream. It reads the last one all the same, unless another map
    of the head comes before it, as where a model fills masks in.
    """
    tables = {
        (role.view.tensor, role.axes[-1])
        for role in structure.roles.values()
        if role.kind == "embedding" and len(set(structure.towers)) == 1
    }
    return [
        name
        for name, role in structure.roles.items()
        if role.kind == "head"
        and name.endswith(".weight")
        and len(role.axes) == 2
        and (
            _is_first(structure, role)
            if (role.view.tensor, role.axes[1]) in tables
            else role.axes[1] == last
        )
    ]


def _is_first(structure: Structure, head: Role) -> bool:
    """Tell whether nothing learned as a matrix lies between a stream and a map of a head."""
    before = structure.graph.upstream([head.reads])
    return not any(
        role.kind == "head" and bool(role.writes) and role.writes in before
        for role in structure.roles.values()
    )


def find_counterparts(structure: Structure, other: Structure) -> dict[str, str]:
    """Return the roles at the ends of a model's streams that another has too.

    Args:
        structure: B.
        other: A, of the same family, of any size.

    Returns:
        A's role by B's.
    """
    found: dict[str, str] = {}
    for mine, theirs in zip(find_streams(structure), find_streams(other), strict=True):
        found |= _paired_inputs(structure, mine, other, theirs)
        facing = head_roles(other, theirs.points[-1])
        for name in head_roles(structure, mine.points[-1]):
            if name in facing and _same_but_last(structure, name, other, name):
                found[name] = name
                bias = name.removesuffix("weight") + "bias"
                found[bias] = bias
        found |= paired_norms(structure, mine, other, theirs)
    return found


def paired_norms(
    structure: Structure, stream: Stream, other: Structure, theirs: Stream
) -> dict[str, str]:
    """Return another model's roles of the norms after the last block, by a model's own."""
    found: dict[str, str] = {}
    last = (_last_norms(s, x) for s, x in ((structure, stream), (other, theirs)))
    for one, two in zip(*last, strict=False):
        found |= {
            own: facing
            for own, facing in ((one.gain, two.gain), (one.bias, two.bias))
            if own is not None and facing is not None
        }
    return found


def state_value(structure: Structure, stream: Stream) -> str | None:
    """Return what a head reads of a stream: the norm after the last block, or the last point.

    None where a norm comes only after tokens were picked or averaged.
    """
    residual = stream.blocks[-1].residual
    if residual is None:
        return None
    end = residual.node.outputs[0]
    after = [m for m in structure.norms if before_norm(structure.graph, m.parts["input"], end)]
    if not after:
        return end
    direct = [m for m in after if m.parts["input"] == end]
    return str(direct[0].parts["output"]) if len(after) == len(direct) == 1 else None


def _last_norms(structure: Structure, stream: Stream) -> list[NormFacts]:
    """Return the norms of the last point, in the order of the graph."""
    residual = stream.blocks[-1].residual
    end = residual.node.outputs[0] if residual else ""
    facts = norm_facts(structure)
    return [
        facts[match.parts["output"]]
        for match in structure.norms
        if before_norm(structure.graph, match.parts["input"], end)
    ]


def _paired_inputs(
    structure: Structure, stream: Stream, other: Structure, theirs: Stream
) -> dict[str, str]:
    mine, facing = input_roles(structure, stream), input_roles(other, theirs)
    found: dict[str, str] = {}
    for names, candidates, first in (
        (mine.tables, facing.tables, True),
        (mine.filters, facing.filters, False),
        (mine.biases, facing.biases, None),
        (mine.tokens, facing.tokens, None),
    ):
        found |= _matched(structure, names, other, candidates, first)
    return found


def _matched(
    structure: Structure,
    names: Sequence[str],
    other: Structure,
    candidates: Sequence[str],
    rows: bool | None,
) -> dict[str, str]:
    """Pair roles of equal name, then the others of equal rows (or columns) in their order."""
    free = [name for name in candidates if name not in names]
    found = {}
    for name in names:
        fitting = [name] if name in candidates else free
        for candidate in fitting:
            if _agree(structure, name, other, candidate, rows):
                found[name] = candidate
                free = [x for x in free if x != candidate]
                break
    return found


def _agree(
    structure: Structure, name: str, other: Structure, candidate: str, rows: bool | None
) -> bool:
    """Tell whether the axes that do not lie in the stream have the same size."""
    if rows is None:
        return True
    shapes = (s.roles[x].view.shape for s, x in ((structure, name), (other, candidate)))
    one, two = (shape[:1] if rows else shape[1:] for shape in shapes)
    return one == two


def _same_but_last(structure: Structure, name: str, other: Structure, candidate: str) -> bool:
    """Tell whether two maps of a stream have the same classes, none of them a hidden space."""
    if candidate not in other.roles or structure.roles[name].axes[0] is not None:
        return False
    return _agree(structure, name, other, candidate, True)
