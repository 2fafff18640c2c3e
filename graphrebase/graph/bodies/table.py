"""The table of bodies, and what a body may ask of the call that it replaces and emit for it.

What counts is which indices of the outputs depend on which indices of the inputs. Where operators
differ in numbers only (a tanh form of Gelu, an epsilon), a body takes the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphrebase.graph.view import Node

#: Version of the operator set in which bodies are written.
BODY_OPSET = 24

MICROSOFT = "com.microsoft"

Typed = tuple[int, tuple[int, ...]]
Body = Callable[["Call"], None]

BODIES: dict[tuple[str, str], Body] = {}


class CannotExpand(Exception):
    """Raised by a body for a form of the call that it does not describe; the call is frozen."""


class KeepAsIs(Exception):
    """Raised by a body for a form of the call that needs none."""


def body(*op_types: str, domain: str = MICROSOFT) -> Callable[[Body], Body]:
    """Register the body of one or more operators."""

    def register(function: Body) -> Body:
        for op_type in op_types:
            BODIES[domain, op_type] = function
        return function

    return register


@dataclass(slots=True)
class Call:
    """One call of a fused operator, as its body sees it.

    Attributes:
        node: the call.
        types: element type and shape, under one probe, of the values before it.
        producers: the node that computes each value before it.
        taken: names that exist.
        constants: names of the tensors of the file.
        value: gives the array of a constant, None for what is computed.
        nodes: what the body emitted.
        literals: constants that it made.
    """

    node: Node
    types: Mapping[str, Typed]
    producers: Mapping[str, Node]
    taken: set[str]
    constants: Container[str]
    value: Callable[[str], np.ndarray | None] = lambda _: None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    literals: dict[str, np.ndarray] = field(default_factory=dict)

    # --- asking

    def input(self, position: int) -> str:
        """Return a required input."""
        name = self.node.input(position)
        if not name:
            raise CannotExpand(f"{self.node.op_type} without input {position}")
        return name

    def optional(self, position: int) -> str:
        """Return an input, ``""`` where it is absent."""
        return self.node.input(position)

    def output(self, position: int) -> str:
        """Return the name of an output; where the call does not give it, a fresh one."""
        given = self.node.outputs[position] if position < len(self.node.outputs) else ""
        return given or self._fresh()

    def wants(self, position: int) -> bool:
        """Tell whether the call gives an output."""
        return position < len(self.node.outputs) and bool(self.node.outputs[position])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.node.attributes.get(name, default)

    def number(self, name: str) -> int:
        """Return an attribute that is an integer above zero."""
        value = int(self.attribute(name, 0))
        if value < 1:
            raise CannotExpand(f"{self.node.op_type} without {name}")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value before the call, under one probe."""
        if name not in self.types:
            raise CannotExpand(f"an input of {self.node.op_type} has an unknown shape")
        return self.types[name][1]

    def rank(self, name: str) -> int:
        """Return the rank of a value before the call."""
        return len(self.shape(name))

    # --- emitting

    def emit(self, op_type: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add an operator with one output, named ``out``; returns the output's name."""
        return self.emit_many(op_type, inputs, [out or self._fresh()], **attributes)[0]

    def emit_many(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add an operator; absent outputs are ``""``."""
        kept = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=self.node.name, **kept))
        return list(outputs)

    def fresh(self, count: int) -> list[str]:
        """Return new names of values."""
        return [self._fresh() for _ in range(count)]

    def ints(self, *values: int) -> str:
        """Return the name of a constant vector of integers."""
        return self._literal(np.array(values, np.int64))

    def scalar(self, value: float, like: str) -> str:
        """Return the name of a constant of the element type of another value."""
        element = self.types[like][0] if like in self.types else onnx.TensorProto.FLOAT
        return self._literal(np.array(value, helper.tensor_dtype_to_np_dtype(element)))

    def reshape(self, value: str, *shape: int, out: str = "") -> str:
        """Add a Reshape; 0 keeps a size and -1 takes the rest."""
        return self.emit("Reshape", value, self.ints(*shape), out=out)

    def split(self, value: str, sizes: Sequence[int] | None, count: int, axis: int) -> list[str]:
        """Cut a value into parts, of equal sizes where none are given."""
        names = self.fresh(count)
        if sizes is None:
            return self.emit_many("Split", [value], names, axis=axis, num_outputs=count)
        return self.emit_many("Split", [value, self.ints(*sizes)], names, axis=axis)

    def _literal(self, value: np.ndarray) -> str:
        name = self._fresh()
        self.literals[name] = value
        return name

    def _fresh(self) -> str:
        stem = next(name for name in self.node.outputs if name)
        number = len(self.nodes) + len(self.literals)
        while f"{stem}/{self.node.op_type}.{number}" in self.taken:
            number += 1
        name = f"{stem}/{self.node.op_type}.{number}"
        self.taken.add(name)
        return name
