"""Run the operator rules over a graph and read off the symmetry groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from graphrebase.graph import Dim, Graph, Node, ShapeTable, infer_shapes
from graphrebase.graph.cache import find_cache
from graphrebase.graph.quantized import quantized_constants
from graphrebase.graph.shapes import is_static
from graphrebase.io import is_float
from graphrebase.symmetry import rules as _rules
from graphrebase.symmetry.axes import (
    UNIT,
    Axis,
    frozen,
    leaves,
)
from graphrebase.symmetry.groups import FrozenAxis, Group, find_frozen, find_groups, freeze_unread
from graphrebase.symmetry.initial import value_axes
from graphrebase.symmetry.interface import OutputAxis, fix_outputs, name_inputs, pair_cache
from graphrebase.symmetry.registry import RULES, Axes, CannotFollow, Context, Rule, unfollowed
from graphrebase.symmetry.solver import Solver
from graphrebase.symmetry.state import State, Use, constant_axes, input_axes

assert _rules

#: Kinds of interface axes that may be freed.
FREE_KINDS = ("latent", "state")

#: Folded or not, their output holds equal values along static axes (T5: zeros for every head).
_REPEATS = {"ConstantOfShape", "Expand"}

#: Of what these read, only the shape matters.
_SIZES = {"Shape", "Size"}


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
    state = State(graph, table, Solver(), cache, frozenset(free), numbers)
    name_inputs(state)
    live = _live_nodes(graph)
    for node in graph.nodes:
        if node.index in live:
            _apply(node, state, cuts)
        else:
            _give(node, state, "only its shape is read")
    pair_cache(state)
    found = fix_outputs(state, latent)
    _close_all(state)
    freeze_unread(state.constants, state.values, state.solver)
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
        if node.op_type not in _SIZES:
            needed.update(node.inputs, node.captured)
    return live


def _apply(node: Node, state: State, cuts: Set[Use]) -> None:
    if node.op_type in _SIZES and not node.domain:  # says nothing of what a constant holds
        _give(node, state, "computed constant")
        return
    inputs = [input_axes(node, position, state) for position in range(len(node.inputs))]
    if _is_computed(node, inputs, state):
        for name in node.outputs:
            fixed = [frozen(d, "computed constant") for d in state.shapes.shape(name) or ()]
            state.values[name] = value_axes(state.shapes.values[name], fixed)
        return
    for position, axes in enumerate(inputs):
        if (node.index, position) in cuts:
            inputs[position] = [frozen(UNIT, "cut") for _ in axes or ()]
    context = _context(node, inputs, state)
    try:
        outputs = _outputs(context, state)
    except CannotFollow as reason:
        _freeze_captured(node, state)
        context.read.clear()
        outputs = unfollowed(context, str(reason))
    state.pointers.follow(node, state.shapes, state.solver, context.read)
    for name, given in zip(node.outputs, outputs, strict=False):
        if name and given is not None:
            state.values[name] = given
            state.solver.close(given)


def _context(node: Node, inputs: list[Axes | None], state: State) -> Context:
    return Context(
        node,
        inputs,
        state.shapes,
        state.solver,
        state.scopes,
        state.graph.opset,
        state.pointers,
        producers=state.graph.producers,
    )


def _give(node: Node, state: State, reason: str) -> None:
    """Give a node outputs of which every axis is frozen."""
    for name in node.outputs:
        dims = state.shapes.shape(name)
        if dims is not None:
            state.values[name] = [frozen(d, reason) for d in dims]


def _is_computed(node: Node, inputs: Sequence[Axes | None], state: State) -> bool:
    """Tell whether a node computes a constant that no permutation touches.

    Arithmetic on small weights folds too, but weights move.
    """
    if not all(name in state.shapes.values for name in node.outputs if name):
        return False
    if node.op_type in _REPEATS and _is_floating(node, state):
        return False
    return not any(leaves(axis) for axes in inputs for axis in axes or ())


def _outputs(context: Context, state: State) -> Sequence[Axes | None]:
    """Return what the rule of a node says of its outputs.

    Raises:
        CannotFollow: there is no rule, or the call is not one that it can follow.
    """
    node = context.node
    rule = RULES.get((node.domain, node.op_type))
    if rule is None:
        label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        state.unknown[label] = state.unknown.get(label, 0) + 1
        raise CannotFollow(node.refusal or f"operator {label} has no rule")
    _check_known(context)
    outputs = _call(rule, context)
    _check_sizes(context, outputs)
    return outputs


def _freeze_captured(node: Node, state: State) -> None:
    for name in node.captured:
        for axis in constant_axes(name, state) or ():
            state.solver.freeze(axis, f"read inside a sub-graph of {node.op_type}")


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


def _is_floating(node: Node, state: State) -> bool:
    return state.shapes.values[node.outputs[0]][0].dtype.kind == "f"


def _check_sizes(context: Context, outputs: Sequence[Axes | None]) -> None:
    """Distrust a rule whose output sizes differ from the inferred shape."""
    for name, axes in zip(context.node.outputs, outputs, strict=False):
        dims: tuple[Dim, ...] | None = context.shapes.shape(name) if name else None
        if axes is None or dims is None:
            continue
        if tuple(a.size for a in axes) != dims:
            raise CannotFollow(f"{context.node.op_type} gave an unexpected shape")


def _close_all(state: State) -> None:
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
