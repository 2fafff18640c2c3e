"""What an idiom is: a core operator, and a function that names the parts around it.

An idiom lives in one file of the ``patterns`` folder and defines ``PATTERN``. Its ``match`` is
called on every node whose operator is in ``core`` and answers with the parts by role, with a near
miss (the node almost fits; why not) or with None (a different thing altogether).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from graphrebase.graph.shapes import ShapeTable
from graphrebase.graph.view import Graph, Node, Slot


@dataclass(frozen=True, slots=True)
class Match:
    """A found idiom: the values (or constants) that play its roles, and facts about it."""

    kind: str
    node: Node
    parts: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """An idiom that almost fitted, and what was in the way."""

    pattern: str
    node: Node
    reason: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What a pattern may look at."""

    graph: Graph
    shapes: ShapeTable
    _varying: set[str] = field(default_factory=set, repr=False)

    def producer(self, name: str) -> Node | None:
        """Return the node that computes a value."""
        return self.graph.producers.get(name)

    def varies(self, name: str) -> bool:
        """Tell whether a value depends on what the graph is given, and not on its shape alone."""
        if not self._varying:
            self._varying.update(self.graph.inputs)
            for node in self.graph.nodes:
                read = (*node.inputs, *node.captured)
                if node.op_type not in ("Shape", "Size") and not self._varying.isdisjoint(read):
                    self._varying.update(node.outputs)
        return name in self._varying

    def rank(self, name: str) -> int:
        """Return the rank of a value, -1 where it is unknown."""
        shape = self.shapes.shape(name)
        return -1 if shape is None else len(shape)

    def computed_inputs(self, node: Node) -> list[str]:
        """Return a node's inputs that depend on the graph's inputs."""
        return [
            n
            for n in node.inputs
            if n and not self.graph.is_constant(n) and n not in self.shapes.values
        ]

    def back(self, name: str, through: Collection[str], to: Collection[str]) -> Node | None:
        """Walk producers backwards, always along the operand that leads to an operator in ``to``.

        Args:
            name: the value to start from.
            through: operators that may be passed.
            to: operators to stop at.
        """
        return next(self.all_back(name, through, to), None)

    def all_back(self, name: str, through: Collection[str], to: Collection[str]) -> Iterator[Node]:
        """Yield every operator in ``to`` that a walk like that of ``back`` meets, nearest first."""
        queue, seen = [name], {name}
        while queue:
            node = self.producer(queue.pop(0))
            if node is None:
                continue
            if node.op_type in to:
                yield node
            elif node.op_type in through:
                fresh = [n for n in self.computed_inputs(node) if n not in seen]
                seen.update(fresh)
                queue.extend(fresh)

    def forward(self, name: str, through: Collection[str], to: Collection[str]) -> Node | None:
        """Walk consumers forwards through operators in ``through`` to one in ``to``."""
        path = self.path(name, through, to)
        return path[-1].node if path else None

    def path(self, name: str, through: Collection[str], to: Collection[str]) -> list[Slot]:
        """Return the uses on the way that ``forward`` walks, the last one that of its result."""
        queue: list[tuple[str, list[Slot]]] = [(name, [])]
        seen = {name}
        while queue:
            value, way = queue.pop(0)
            for slot in self.graph.users(value):
                if slot.node.op_type in to:
                    return [*way, slot]
                if slot.node.op_type in through:
                    fresh = [n for n in slot.node.outputs[:1] if n not in seen]
                    seen.update(fresh)
                    queue.extend((n, [*way, slot]) for n in fresh)
        return []


@dataclass(frozen=True, slots=True)
class Pattern:
    """One idiom."""

    name: str
    core: frozenset[str]
    match: Callable[[Scene, Node], Match | NearMiss | None]
