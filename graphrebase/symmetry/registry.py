"""The table of operator rules, and what a rule may ask and state.

A rule receives a :class:`Context` and returns the axes of every output. It states constraints with
``context.solver`` (unify, freeze, cut, split). The meaning of an axis that depends on another one
is kept sound by scope: every tensor's axes are closed after each rule and again at the end, so a
rule need not think of fibres, except to say with ``context.reduce`` which axes it sums over while
keeping them in its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphrebase.graph import Dim, Node, ShapeTable
from graphrebase.graph.shapes import is_static
from graphrebase.symmetry.axes import UNIT, Axis, Fibre, frozen
from graphrebase.symmetry.pointers import Pointer, Pointers
from graphrebase.symmetry.solver import Solver

Axes = list[Axis]
Rule = Callable[["Context"], Sequence[Axes | None]]

RULES: dict[tuple[str, str], Rule] = {}


class CannotFollow(Exception):
    """Raised by a rule for a call it does not understand; all axes of the call are frozen."""


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the rule of one or more operators."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[domain, op_type] = function
        return function

    return register


@dataclass(slots=True)
class Context:
    """One operator call, as its rule sees it.

    Attributes:
        node: the call.
        inputs: axes of each input; None where it is absent.
        shapes: shapes and folded values of the whole graph.
        solver: the union-find state.
        scopes: further sets of axes that must be closed (see ``reduce``).
        opset: version of the default operator set; some operators changed their meaning.
        pointers: the values that hold indices of an axis.
        read: input positions understood as look-ups by such indices.
        producers: the node of every value that a node computes.
    """

    node: Node
    inputs: list[Axes | None]
    shapes: ShapeTable
    solver: Solver
    scopes: list[Axes]
    opset: int = 23
    pointers: Pointers = field(default_factory=Pointers)
    read: set[int] = field(default_factory=set)
    producers: Mapping[str, Node] = field(default_factory=dict)

    def axes(self, position: int) -> Axes:
        """Return the axes of a required input."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise CannotFollow(f"input {position} of {self.node.op_type} has an unknown shape")
        return found

    def pointer(self, position: int) -> Pointer | None:
        """Return what the integers of an input point at, or None; the rule follows them."""
        found = self.pointers.get(self.node.input(position))
        if found is not None:
            self.read.add(position)
        return found

    def point(self, output: int, axis: Axis) -> None:
        """State that the integers of an output are indices of an axis of this call."""
        # Numbers do not tell which order: the axis must have one, whatever else there is.
        self.scopes.append([axis])
        if output < len(self.node.outputs) and self.node.outputs[output]:
            self.pointers.add(self.node.outputs[output], axis)

    def optional(self, position: int) -> Axes | None:
        """Return the axes of an input, or None where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else None

    def dims(self, output: int = 0) -> tuple[Dim, ...]:
        """Return the inferred dimensions of an output."""
        shape = self.shapes.shape(self.node.outputs[output])
        if shape is None:
            raise CannotFollow(f"the output shape of {self.node.op_type} is unknown")
        return shape

    def values(self, position: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return an input's folded array under both probes, or None."""
        return self.shapes.values.get(self.node.input(position))

    def ints(self, position: int, attribute: str) -> list[int] | None:
        """Return a static list of integers given as attribute or input, None where absent."""
        if attribute in self.node.attributes:
            return [int(v) for v in np.atleast_1d(self.node.attributes[attribute])]
        if not self.node.input(position):
            return None
        value = self.shapes.static_value(self.node.input(position))
        if value is None:
            raise CannotFollow(f"{attribute} of {self.node.op_type} is computed at run time")
        return [int(v) for v in np.atleast_1d(value)]

    def meet(self, joint: Sequence[Axis], *operands: Sequence[Axis | None]) -> None:
        """State that operands meet index by index, along all axes of the call, kept and summed.

        An axis may be spelt differently in every operand, so each spelling must hold in the scope
        of the whole call: what depends on one of two axes of one class does not (x @ x^T).

        Args:
            joint: all axes of the call.
            operands: the axes of each operand, placed as in ``joint``; None where it has none.
        """
        self.scopes.append(list(joint))
        for operand in operands:
            scope = [
                j if a is None or a.size == UNIT else a for a, j in zip(operand, joint, strict=True)
            ]
            if any(a.root is not j.root for a, j in zip(scope, joint, strict=True)):
                self.scopes.append(scope)

    def reduce(self, axes: Sequence[Axis], reduced: Sequence[int]) -> None:
        """State that the call mixes the indices of the ``reduced`` axes of one tensor.

        No other axis may depend on them, although they stay in the output (Softmax, norms).
        """
        dropped = {i % len(axes) for i in reduced}
        self.scopes.append([a for i, a in enumerate(axes) if i not in dropped])

    def broadcast(self, operands: Sequence[Axes]) -> Axes:
        """Unify right-aligned axes, as element-wise operators do; returns the joint axes."""
        rank = max((len(o) for o in operands), default=0)
        padded: list[list[Axis | None]] = [[None] * (rank - len(o)) + list(o) for o in operands]
        columns = [[a for a in column if a is not None] for column in zip(*padded, strict=True)]
        joint = [[a for a in column if a.size != UNIT] or column[:1] for column in columns]
        self.tie(joint)
        result = [column[0] for column in joint]
        self.meet(result, *padded)
        return result

    def tie(self, columns: Sequence[Sequence[Axis]]) -> None:
        """Unify the axes of each column.

        An index axis comes first, what depends on it afterwards: then it is found equal.
        """
        for column in sorted(columns, key=lambda c: any(self._depends(a) for a in c)):
            for other in column[1:]:
                self.solver.unify(column[0], other)

    def _depends(self, axis: Axis) -> bool:
        return any(isinstance(f.form, Fibre) for f in self.solver.factors(axis))


def unfollowed(context: Context, reason: str) -> list[Axes | None]:
    """Freeze every axis of a call; returns frozen output axes, None where the shape is unknown."""
    for axes in context.inputs:
        for axis in axes or ():
            context.solver.freeze(axis, reason)
    outputs: list[Axes | None] = []
    for name in context.node.outputs:
        shape = context.shapes.shape(name) if name else ()
        outputs.append(None if shape is None else [frozen(d, reason) for d in shape])
    return outputs


def dim_reason(dim: Dim) -> str:
    """Return why an axis that no weight has is frozen."""
    return "computed constant" if is_static(dim) else "dynamic size"
