"""Integers that point at indices of an axis: what TopK returns and Gather reads (experts).

A router's TopK names experts by their number. Another order of the experts gives them other
numbers, and a Gather from weights in the same order reads the same experts: the axis is free as
long as the numbers are used for nothing else. Any other use freezes it. (Equal scores are told
apart by their number; scores of a trained router are not equal.)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from graphrebase.graph import Node, ShapeTable
from graphrebase.symmetry.axes import Axis
from graphrebase.symmetry.solver import Solver

#: Operators that hand integers on in the same row-major order.
_SAME_ORDER = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
#: Operators that only move, repeat or pick integers.
_MOVING = {"Expand", "Slice", "Split", "Tile", "Transpose"}
#: Operators that do not look at the values.
_BLIND = {"Shape", "Size"}


@dataclass(frozen=True, slots=True)
class Pointer:
    """What the integers of a value mean.

    Attributes:
        axis: the axis whose indices they are.
        key: equal for values that hold the same integers in the same shape.
    """

    axis: Axis
    key: Hashable


@dataclass(slots=True)
class Pointers:
    """The values that hold indices of an axis."""

    known: dict[str, Pointer] = field(default_factory=dict)

    def get(self, name: str) -> Pointer | None:
        """Return what a value points at, or None."""
        return self.known.get(name)

    def add(self, name: str, axis: Axis) -> None:
        """State that the integers of a value are indices of an axis."""
        self.known[name] = Pointer(axis, name)

    def follow(self, node: Node, shapes: ShapeTable, solver: Solver, read: set[int]) -> None:
        """Hand pointers on to a node's outputs; freeze the axis where they are used otherwise.

        Args:
            node: a node whose rule was applied.
            shapes: shapes of all values.
            solver: the union-find state.
            read: input positions that the rule has understood as look-ups.
        """
        for position, name in enumerate((*node.inputs, *node.captured)):
            pointer = self.known.get(name)
            if pointer is None or position in read or node.op_type in _BLIND:
                continue
            same, moving = node.op_type in _SAME_ORDER, node.op_type in _MOVING
            if node.domain or position or not (same or moving):
                reason = f"the number of an index along it is used by {node.op_type}"
                solver.freeze(pointer.axis, reason)
                continue
            for output in node.outputs:
                source = pointer.key[0] if isinstance(pointer.key, tuple) else pointer.key
                key = (source, shapes.shape(output)) if same else output
                self.known[output] = Pointer(pointer.axis, key)
