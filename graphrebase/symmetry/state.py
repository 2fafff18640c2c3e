"""What is known while the rules run: the axes of values, and of constants as each node reads."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np

from graphrebase.graph import Graph, Node, ShapeTable
from graphrebase.graph.cache import Cache
from graphrebase.io import is_float
from graphrebase.symmetry.axes import (
    Axis,
    Leaf,
    copies,
    frozen,
)
from graphrebase.symmetry.initial import initial_axes, readers, value_axes
from graphrebase.symmetry.pointers import Pointers
from graphrebase.symmetry.registry import Axes
from graphrebase.symmetry.solver import Solver

#: A tensor read in several places is tested for equal values up to this many elements.
_UNIFORM_LIMIT = 1 << 16

#: Key of one use of a constant: (node index, input position).
Use = tuple[int, int]


@dataclass(slots=True)
class State:
    """What is known so far; ``Symmetry`` says what its fields become.

    Attributes:
        free: kinds of interface axes that may move.
        scopes: further sets of axes that must be closed.
        unknown: operators without a rule, how often each was met.
        pointers: integer tensors that hold the numbers of indices along some axis.
    """

    graph: Graph
    shapes: ShapeTable
    solver: Solver
    cache: Cache
    free: Set[str]
    quantized: frozenset[str]
    values: dict[str, Axes] = field(default_factory=dict)
    uses: dict[Use, Axes] = field(default_factory=dict)
    constants: dict[str, Axes] = field(default_factory=dict)
    uniform: set[str] = field(default_factory=set)
    scopes: list[Axes] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    pointers: Pointers = field(default_factory=Pointers)

    def may_move(self, name: str) -> bool:
        """Tell whether a constant holds numbers: floats, or integers used as quantised ones."""
        return is_float(self.graph.constants[name].dtype) or name in self.quantized


def input_axes(node: Node, position: int, state: State) -> Axes | None:
    """Return the axes of a node input, None where it is absent or of unknown shape."""
    name = node.inputs[position]
    if not name:
        return None
    if name in state.graph.constants:
        axes = constant_axes(name, state, (node.index, position))
        state.uses[node.index, position] = axes
        return axes
    if name in state.graph.literals:
        literal = state.graph.literals[name]
        return value_axes([literal], [frozen((n, n), "constant") for n in literal.shape])
    found = state.values.get(name)
    return found if found is None else [_of_this_use(axis) for axis in found]


def _of_this_use(axis: Axis) -> Axis:
    """Return a fresh axis where the indices hold equal values: one use says nothing of another."""
    return copies(axis.size) if axis.form == Leaf(copies=True) else axis


def constant_axes(name: str, state: State, use: Use | None = None) -> Axes:
    """Return the axes of a constant, as one use reads it; a captured value is given as it is."""
    ref = state.graph.constants.get(name)
    if ref is None:
        return state.values.get(name, [])
    if name in state.uniform or (use is not None and _is_uniform(name, state)):
        state.uniform.add(name)
        return [copies((n, n)) for n in ref.shape]
    if name not in state.constants:
        state.constants[name] = (
            initial_axes(state.graph, state.shapes, state.solver, name)
            if state.may_move(name)
            else [frozen((n, n), "integer constant") for n in ref.shape]
        )
    return state.constants[name]


def _is_uniform(name: str, state: State) -> bool:
    """Tell whether a constant that several nodes read holds one value only.

    Exporters merge equal tensors (two fresh norm gains); that says nothing about their axes.
    """
    ref = state.graph.constants[name]
    shared = len(readers(state.graph, name)) > 1
    if name in state.constants or not shared or not state.may_move(name):
        return False
    size = int(np.prod(ref.shape, dtype=np.int64))
    if not 1 < size <= _UNIFORM_LIMIT:
        return False
    values = ref.load().reshape(-1)
    return bool((values == values[0]).all())
