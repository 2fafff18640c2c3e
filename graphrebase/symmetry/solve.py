"""Run the operator rules over a graph and read off the symmetry groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from graphrebase.graph import Dim, Graph, Node, ShapeTable, infer_shapes
from graphrebase.graph.cache import Cache, find_cache
from graphrebase.graph.quantized import quantized_constants, scale_constants
from graphrebase.graph.shapes import is_static
from graphrebase.io import is_float
from graphrebase.symmetry import rules as _rules
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    Leaf,
    copies,
    fibre,
    frozen,
    leaf,
    leaves,
)
from graphrebase.symmetry.groups import FrozenAxis, Group, find_frozen, find_groups
from graphrebase.symmetry.initial import fresh_axes, initial_axes, value_axes
from graphrebase.symmetry.pointers import Pointers
from graphrebase.symmetry.registry import RULES, Axes, CannotFollow, Context, Rule, unfollowed
from graphrebase.symmetry.solver import Solver

assert _rules

#: Kinds of interface axes that may be freed.
FREE_KINDS = ("latent", "state")

#: A tensor read in several places is tested for equal values up to this many elements.
_UNIFORM_LIMIT = 1 << 16

#: Folded or not, their output holds equal values along static axes (T5: zeros for every head).
_REPEATS = {"ConstantOfShape", "Expand"}

_SIZES = {"Shape", "Size"}

#: Key of one use of a constant: (node index, input position).
Use = tuple[int, int]

#: One axis of a graph output: (output name, axis).
OutputAxis = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """What the axis algebra proves about a graph.

    Attributes:
        values: axes of every tensor of known shape.
        uses: axes of a constant as one node input reads it (uniform tensors constrain nothing,
            so each use has axes of its own).
        constants: axes of every constant that groups move.
        uniform: shared constants with equal values, which any permutation leaves alone.
        latent: output axes (output, axis) that are hidden units and not scores, frozen or free.
        quantized: integer constants that hold quantised numbers.
    """

    graph: Graph
    shapes: ShapeTable
    solver: Solver
    values: Mapping[str, Axes]
    uses: Mapping[Use, Axes]
    constants: Mapping[str, Axes]
    uniform: Set[str]
    groups: tuple[Group, ...]
    frozen: tuple[FrozenAxis, ...]
    unknown_operators: Mapping[str, int]
    latent: frozenset[OutputAxis]
    quantized: frozenset[str]

    def holds_numbers(self, name: str) -> bool:
        """Tell whether a constant holds numbers that may move, and not indices or shapes."""
        return is_float(self.graph.constants[name].dtype) or name in self.quantized

    def axes(self, node: Node, position: int) -> Axes | None:
        """Return the axes of a node input."""
        use = self.uses.get((node.index, position))
        return use if use is not None else self.values.get(node.input(position))


@dataclass(slots=True)
class _State:
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


def find_symmetry(
    graph: Graph,
    shapes: ShapeTable | None = None,
    *,
    free: Iterable[str] = (),
    cuts: Set[Use] = frozenset(),
    latent: Set[OutputAxis] = frozenset(),
) -> Symmetry:
    """Return the symmetry groups of a graph.

    Args:
        graph: the graph.
        shapes: its shapes, inferred here if not given.
        free: interface axes that may move too, of ``latent`` (hidden-state outputs) and
            ``state`` (KV-cache inputs and outputs, see ``graph.cache``).
        cuts: node inputs whose axes are not tied to the node's other operands: the skips of a
            residual stream, when each residual point has a permutation of its own.
        latent: output axes that are latent although the cut graph no longer shows it: those of
            the same graph without cuts.
    """
    table = infer_shapes(graph) if shapes is None else shapes
    cache, numbers = find_cache(graph, table), quantized_constants(graph)
    state = _State(graph, table, Solver(), cache, frozenset(free), numbers)
    _name_inputs(state)
    live = _live_nodes(graph)
    for node in graph.nodes:
        if node.index in live:
            _apply(node, state, cuts)
        else:
            _ignore(node, state)
    _pair_cache(state)
    found = _fix_outputs(state, latent)
    _close_all(state)
    return Symmetry(
        graph=graph,
        shapes=table,
        solver=state.solver,
        values=state.values,
        uses=state.uses,
        constants=state.constants,
        uniform=state.uniform,
        groups=tuple(find_groups(state.constants, state.solver)),
        frozen=tuple(find_frozen({n: a for n, a in state.constants.items() if state.may_move(n)})),
        unknown_operators=state.unknown,
        latent=frozenset(found),
        quantized=numbers,
    )


def _name_inputs(state: _State) -> None:
    for name in state.graph.inputs:
        dims = state.shapes.shape(name) or ()
        is_cache = name in state.cache.inputs
        reason = f"{'cache' if is_cache else 'input'} '{name}'"
        if is_cache and "state" in state.free:
            state.values[name] = _cache_axes(dims, reason)
        else:
            state.values[name] = [frozen(d, reason) for d in dims]


def _cache_axes(dims: Sequence[Dim], reason: str) -> Axes:
    """Return the axes of past keys or values: heads, and an inner axis of their own for each."""
    axes = [leaf(d[0]) if is_static(d) and d[0] > 1 else frozen(d, reason) for d in dims]
    inside = [i for i, axis in enumerate(axes) if isinstance(axis.form, Leaf)]
    if len(inside) == 2:
        head, inner = (axes[i] for i in inside)
        axes[inside[1]] = fibre(head, [leaf(inner.length) for _ in range(head.length)])
    return axes


def _pair_cache(state: _State) -> None:
    """Tie past and present: what a step gives out, the next one takes in."""
    for past, present in state.cache.pairs:
        before = state.values.get(past, [])
        after = state.values.get(state.graph.outputs[present], [])
        if len(before) != len(after):
            for axis in (*before, *after):
                state.solver.freeze(axis, f"cache '{past}' and '{present}' differ in layout")
            continue
        for x, y in zip(before, after, strict=True):
            if x.size == y.size and is_static(x.size):
                state.solver.unify(x, y)


def _live_nodes(graph: Graph) -> set[int]:
    """Return the nodes whose values reach an output; of some values only the shape is read.

    BART takes one feature of its embeddings to learn the shape of the ids.
    """
    needed = set(graph.outputs.values())
    live: set[int] = set()
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        live.add(node.index)
        if node.op_type not in ("Shape", "Size"):
            needed.update(node.inputs, node.captured)
    return live


def _ignore(node: Node, state: _State) -> None:
    """Give the outputs of a node whose values nothing depends on."""
    for name in node.outputs:
        dims = state.shapes.shape(name)
        if dims is not None:
            state.values[name] = [frozen(d, "only its shape is read") for d in dims]


def _apply(node: Node, state: _State, cuts: Set[Use]) -> None:
    if node.op_type in _SIZES and not node.domain:  # says nothing of what a constant holds
        for name in node.outputs:
            dims = state.shapes.shape(name)
            if dims is not None:
                state.values[name] = [frozen(d, "computed constant") for d in dims]
        return
    inputs = [_input_axes(node, position, state) for position in range(len(node.inputs))]
    folded = all(name in state.shapes.values for name in node.outputs if name)
    folded = folded and not (node.op_type in _REPEATS and _is_floating(node, state))
    # Arithmetic on small weights folds too, but weights move.
    if folded and not any(leaves(axis) for axes in inputs for axis in axes or ()):
        for name in node.outputs:
            dims = state.shapes.shape(name) or ()
            fixed = [frozen(d, "computed constant") for d in dims]
            state.values[name] = value_axes(state.shapes.values[name], fixed)
        return
    for position in range(len(inputs)):
        if (node.index, position) in cuts:
            inputs[position] = [frozen(UNIT, "cut") for _ in inputs[position] or ()]
    context = Context(
        node,
        inputs,
        state.shapes,
        state.solver,
        state.scopes,
        state.graph.opset,
        state.pointers,
        producers=state.graph.producers,
    )
    outputs: Sequence[Axes | None]
    rule = RULES.get((node.domain, node.op_type))
    try:
        if rule is None:
            label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            state.unknown[label] = state.unknown.get(label, 0) + 1
            raise CannotFollow(node.refusal or f"operator {label} has no rule")
        _check_known(context)
        outputs = _call(rule, context)
        _check_sizes(context, outputs)
    except CannotFollow as reason:
        for name in node.captured:
            for axis in _constant_axes(name, state) or ():
                state.solver.freeze(axis, f"read inside a sub-graph of {node.op_type}")
        context.read.clear()
        outputs = unfollowed(context, str(reason))
    state.pointers.follow(node, state.shapes, state.solver, context.read)
    for name, axes in zip(node.outputs, outputs, strict=False):
        if name and axes is not None:
            state.values[name] = axes
            state.solver.close(axes)


def _call(rule: Rule, context: Context) -> Sequence[Axes | None]:
    """Apply a rule; a call that it was not written for (a rank it never met) is not followed."""
    try:
        return rule(context)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CannotFollow(f"an unusual call of {context.node.op_type}") from error


def _check_known(context: Context) -> None:
    """Refuse a call with an input of unknown shape: a rule would take it for an absent one."""
    for name, axes in zip(context.node.inputs, context.inputs, strict=True):
        if name and axes is None:
            raise CannotFollow(f"{context.node.op_type} reads a value of unknown shape")


def _is_floating(node: Node, state: _State) -> bool:
    return state.shapes.values[node.outputs[0]][0].dtype.kind == "f"


def _check_sizes(context: Context, outputs: Sequence[Axes | None]) -> None:
    """Distrust a rule whose output sizes differ from the inferred shape."""
    for name, axes in zip(context.node.outputs, outputs, strict=False):
        dims: tuple[Dim, ...] | None = context.shapes.shape(name) if name else None
        if axes is None or dims is None:
            continue
        if tuple(a.size for a in axes) != dims:
            raise CannotFollow(f"{context.node.op_type} gave an unexpected shape")


def _input_axes(node: Node, position: int, state: _State) -> Axes | None:
    name = node.inputs[position]
    if not name:
        return None
    if name in state.graph.constants:
        axes = _constant_axes(name, state, (node.index, position))
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


def _constant_axes(name: str, state: _State, use: Use | None = None) -> Axes:
    ref = state.graph.constants.get(name)
    if ref is None:
        return state.values.get(name, [])
    if name in state.uniform or (use is not None and _is_uniform(name, state)):
        state.uniform.add(name)
        return fresh_axes(ref.shape)
    if name not in state.constants:
        state.constants[name] = (
            initial_axes(state.graph, state.shapes, state.solver, name)
            if state.may_move(name)
            else [frozen((n, n), "integer constant") for n in ref.shape]
        )
    return state.constants[name]


def _is_uniform(name: str, state: _State) -> bool:
    """Tell whether a constant that several nodes read holds one value only.

    Exporters merge equal tensors (two fresh norm gains); that says nothing about their axes.
    """
    ref = state.graph.constants[name]
    shared = len(state.graph.users(name)) > 1
    if name in state.constants or not shared or not state.may_move(name):
        return False
    size = int(np.prod(ref.shape, dtype=np.int64))
    if not 1 < size <= _UNIFORM_LIMIT:
        return False
    values = ref.load().reshape(-1)
    return bool((values == values[0]).all())


def _fix_outputs(state: _State, known: Set[OutputAxis]) -> set[OutputAxis]:
    """Freeze the interface; a hidden axis that weights read again is latent, and may be freed.

    Returns the latent output axes, whether they are free here or not.
    """
    read = _read_axes(state)
    latent = set(known)
    for name, source in state.graph.outputs.items():
        is_cache = name in state.cache.outputs
        for position, axis in enumerate(state.values.get(source, ())):
            inside = leaves(axis)
            if not is_cache and inside and all(x.root in read for x in inside):
                latent.add((name, position))
            kept_free = is_cache and "state" in state.free
            if kept_free or ("latent" in state.free and (name, position) in latent):
                continue
            state.solver.freeze(axis, f"{'cache' if is_cache else 'output'} '{name}'")
        for axis in state.constants.get(source, ()):
            state.solver.freeze(axis, f"output '{name}'")
        pointer = state.pointers.get(source)
        if pointer is not None:
            state.solver.freeze(pointer.axis, f"output '{name}' holds the number of an index")
    return latent


def _read_axes(state: _State) -> set[Axis]:
    """Return the leaves that at least two matrices carry: hidden axes, not class scores.

    A bias of shape (1, classes) is a vector.
    """
    seen: dict[Axis, int] = {}
    scales = scale_constants(state.graph)
    for name, axes in state.constants.items():
        if name not in scales and sum(axis.size != UNIT for axis in axes) >= 2:
            for root in {x.root for axis in axes for x in leaves(axis)}:
                seen[root] = seen.get(root, 0) + 1
    return {root for root, count in seen.items() if count > 1}


def _close_all(state: _State) -> None:
    """Close every tensor's axes until nothing changes.

    What is stored or handed out has a place for every index: no look-up decides it.
    """
    outputs = (state.values.get(source, []) for source in state.graph.outputs.values())
    fixed = _with_static([*state.constants.values(), *state.uses.values(), *outputs])
    tensors = [*_with_static(state.values.values()), *state.scopes]
    while True:
        before = state.solver.changes
        for axes in fixed:
            state.solver.close(axes, lookups=False)
        for axes in tensors:
            state.solver.close(axes)
        if state.solver.changes == before:
            break
    seen = set[Axis]()
    for axes in (*fixed, *tensors):
        for axis in axes:
            state.solver.settle(axis, seen)


def _with_static(tensors: Iterable[Axes]) -> list[Axes]:
    return [axes for axes in tensors if any(is_static(a.size) and a.size != UNIT for a in axes)]
