"""What an idiom is: a core operator, and a function that names the parts around it.

An idiom lives in one file of the ``patterns`` folder and defines ``PATTERN``. Its ``match`` is
called on every node whose operator is in ``core`` and answers with the parts by role, with a near
miss (the node almost fits; why not) or with None (a different thing altogether).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from graphrebase.graph.shapes import ShapeTable
from graphrebase.graph.view import Graph, Node


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

    def producer(self, name: str) -> Node | None:
        """Return the node that computes a value."""
        return self.graph.producers.get(name)

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
        queue, seen = [name], {name}
        while queue:
            node = self.producer(queue.pop(0))
            if node is None:
                continue
            if node.op_type in to:
                return node
            if node.op_type in through:
                fresh = [n for n in self.computed_inputs(node) if n not in seen]
                seen.update(fresh)
                queue.extend(fresh)
        return None

    def forward(self, name: str, through: Collection[str], to: Collection[str]) -> Node | None:
        """Walk consumers forwards through operators in ``through`` to one in ``to``."""
        queue, seen = [name], {name}
        while queue:
            for slot in self.graph.users(queue.pop(0)):
                if slot.node.op_type in to:
                    return slot.node
                if slot.node.op_type in through:
                    fresh = [n for n in slot.node.outputs[:1] if n not in seen]
                    seen.update(fresh)
                    queue.extend(fresh)
        return None


@dataclass(frozen=True, slots=True)
class Pattern:
    """One idiom."""

    name: str
    core: frozenset[str]
    match: Callable[[Scene, Node], Match | NearMiss | None]
