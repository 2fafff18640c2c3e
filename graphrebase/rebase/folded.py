"""Changes of B's plain parameters from task vectors that move in folded form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.align import Alignment, transport
from graphrebase.align.anchored import move
from graphrebase.align.body import Body, FloatArray, Linear
from graphrebase.align.folding import Folded, fold, required, unfold
from graphrebase.rebase.body import carried_heads
from graphrebase.rebase.reader import Reader
from graphrebase.structure import Structure


@dataclass(frozen=True, slots=True)
class FoldedMove:
    """The task vector of a pair's body, role by role.

    Attributes:
        body: what A and B have in common.
        linears: its linear maps by stem.
        heads: maps of A_ft's heads that read the stream, by stem.
        tied: embedding table that a head holds a copy of, both ways.
        kept: norm roles that stay B's, because their readers carry the change.
        alignment: the maps.
        base, finetuned, target: readers of the models' roles.
    """

    body: Body
    linears: Mapping[str, Linear]
    heads: Mapping[str, Linear]
    tied: Mapping[str, str]
    kept: frozenset[str]
    alignment: Alignment
    base: Reader
    finetuned: Reader
    target: Reader

    def change(self, role: str) -> FloatArray | None:
        """Return what to add to B's role at alpha = 1; None where it is not of the body."""
        if role in self.kept:
            return np.zeros(1)
        found = self.own_change(role)
        if role in self.tied:
            other = self.own_change(self.tied[role])
            assert found is not None and other is not None
            found = (found + other) / 2
        return found

    def own_change(self, role: str) -> FloatArray | None:
        """Return the change of a role without a look at weights tied to it."""
        stem, _, part = role.rpartition(".")
        if stem in self.linears and part in ("weight", "bias"):
            linear = self.linears[stem]
            vector = fold(linear, self.finetuned) - fold(linear, self.base)
            moved = move(vector, linear, self.alignment.maps, self.body)
            plain = unfold(linear, moved, self.target)
            return plain.weight if part == "weight" else plain.bias
        if role in self.tied:
            vector_rows = required(self.finetuned, role) - required(self.base, role)
            axes = (None, self.body.towers[0].points[0])
            return transport(vector_rows, axes, self.alignment, self.body.spaces)
        return None

    def carried(self, role: str) -> FloatArray | None:
        """Return a head that only A_ft has, reading B's stream; None for other roles."""
        stem, _, part = role.rpartition(".")
        if stem not in self.heads:
            return None
        linear = self.heads[stem]
        moved = move(fold(linear, self.finetuned), linear, self.alignment.maps, self.body)
        plain = unfold(linear, Folded(moved.weight, moved.bias), self.target)
        return plain.weight if part == "weight" else plain.bias


@dataclass(frozen=True, slots=True)
class FittedMove:
    """Changes of B that were solved for; what was not, stays B's.

    Attributes:
        changes: what to add to B's roles at alpha = 1.
        folded: carries heads over that only A_ft has.
    """

    changes: Mapping[str, FloatArray]
    folded: FoldedMove

    @property
    def kept(self) -> frozenset[str]:
        """Norm roles that stay B's."""
        return self.folded.kept

    def change(self, role: str) -> FloatArray | None:
        """Return what to add to B's role at alpha = 1."""
        return self.changes.get(role, np.zeros(1))

    def carried(self, role: str) -> FloatArray | None:
        """Return a head that only A_ft has, reading B's stream; None for other roles."""
        return self.folded.carried(role)


def folded_move(
    base: Structure,
    finetuned: Structure,
    target: Structure,
    alignment: Alignment,
    body: Body,
    names: Mapping[str, str] | None = None,
) -> FoldedMove:
    """Return the folded task vector of three structures.

    Args:
        base: A.
        finetuned: A_ft.
        target: B.
        alignment: the maps.
        body: of A; of B, where the two differ in size.
        names: A's roles by B's, where the two differ in size.
    """
    heads = carried_heads(finetuned, body, target if names is not None else None)
    if names is not None:
        new = [x for stem, x in heads.items() if stem not in body.linears]
        names = {**names, **{r: r for x in new for r in (x.weight, x.bias)}}
    readers = Reader(base, names), Reader(finetuned, names), Reader(target)
    norms = [x.norm for x in body.linears.values() if x.norm is not None]
    carried = (x.carried for x in body.linears.values())
    kept = {name for n in norms for name in (n.gain, n.bias)} | set(carried)
    return FoldedMove(
        body,
        body.linears,
        heads,
        _tied(body, readers[2]),
        frozenset(name for name in kept if name is not None),
        alignment,
        *readers,
    )


def _hold_the_same(structure: Structure, one: str, other: str) -> bool:
    """Return whether two roles are stored with the same values; compared as they are stored."""
    if one not in structure.roles or other not in structure.roles:
        return False
    return np.array_equal(structure.read(one), structure.read(other))


def _tied(body: Body, target: Reader) -> dict[str, str]:
    """Return heads that hold the values of an embedding table in B, and the tables themselves."""
    found = {}
    for tower in body.towers[:1]:
        for head in tower.heads:
            for table in tower.inputs.tables:
                if _hold_the_same(target.structure, head.weight, table):
                    found[head.weight], found[table] = table, head.weight
    return found
