"""One pass over a graph at given sizes: types inferred, shape arithmetic folded, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from graphrebase.graph.contributed import Typed
from graphrebase.graph.fold import MAX_FOLDED, evaluate
from graphrebase.graph.inference import infer_call
from graphrebase.graph.probe_sizes import Dim, input_dims
from graphrebase.graph.view import Graph, Node, is_merge

#: Sizes that depend on the branch taken start here, far above all others.
_BRANCHED = 1_000_000


@dataclass(slots=True)
class Probe:
    """What one probe knows: element type and shape of each value, and the folded arrays.

    Attributes:
        graph: the graph, for its inputs, constants and opset.
        types: (element type, shape) by value.
        values: folded small arrays by value.
        cache: inferred results of calls, which layers repeat; may be shared by probes.
        which: 0 or 1, the first or second probe.
        branched: how many sizes met so far depend on the branch that an If takes.
    """

    graph: Graph
    types: dict[str, Typed]
    values: dict[str, np.ndarray]
    cache: dict[object, list[Typed | None]]
    which: int = 0
    branched: int = 0

    @classmethod
    def start(
        cls,
        graph: Graph,
        which: int,
        cache: dict[object, list[Typed | None]],
        dims: Mapping[str, tuple[Dim, ...]] | None = None,
    ) -> Probe:
        """Return what is known before the first node, at the first (0) or second (1) sizes.

        Args:
            graph: the graph.
            which: 0 or 1.
            cache: inferred results of calls.
            dims: sizes of the inputs, those of ``input_dims`` if not given.
        """
        probe = cls(graph, {}, {}, cache, which)
        for name, sizes in (input_dims(graph) if dims is None else dims).items():
            element = graph.inputs[name].type.tensor_type.elem_type
            probe.types[name] = (element, tuple(d[which] for d in sizes))
        for name, ref in graph.constants.items():
            probe.types[name] = (helper.np_dtype_to_tensor_dtype(ref.dtype), ref.shape)
            if _foldable(ref.dtype, ref.shape):
                probe.values[name] = ref.load()
        for name, value in graph.literals.items():
            probe.know(name, value)
        return probe

    def know(self, name: str, value: np.ndarray) -> None:
        """Record a known array."""
        self.types[name] = (helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        self.values[name] = value

    def visit(self, node: Node) -> None:
        """Infer the outputs of one node."""
        if is_merge(node):
            self._merge(node)
        elif not _fold(node, self):
            _infer(node, self)

    def _merge(self, node: Node) -> None:
        """Join the outputs of both branches; a size that they do not share is dynamic."""
        count = len(node.outputs)
        ways = zip(node.inputs[1 : 1 + count], node.inputs[1 + count :], strict=True)
        for output, (then, otherwise) in zip(node.outputs, ways, strict=True):
            one, other = self.types.get(then), self.types.get(otherwise)
            if one is None or other is None or one[0] != other[0]:
                continue
            if len(one[1]) == len(other[1]):
                pairs = zip(one[1], other[1], strict=True)
                sizes = [m if m == n else self._size_of_branch() for m, n in pairs]
                self.types[output] = (one[0], tuple(sizes))

    def _size_of_branch(self) -> int:
        """Return a size that differs between the probes and equals no other."""
        self.branched += 1
        return _BRANCHED + 2 * self.branched + self.which


def _foldable(dtype: np.dtype, shape: Sequence[int]) -> bool:
    size = int(np.prod(shape, dtype=np.int64))
    integral = dtype.kind in "iub"
    return size <= (MAX_FOLDED if integral else 16)


def _fold(node: Node, known: Probe) -> bool:
    """Compute a node whose inputs are known arrays; returns whether it could."""
    if node.domain:
        return False
    if node.op_type in ("Shape", "Size"):
        if node.inputs[0] not in known.types:
            return False
        shape = np.array(known.types[node.inputs[0]][1], np.int64)
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        result = shape[start:end] if node.op_type == "Shape" else np.array(shape.prod())
        _record(node, [result], known)
        return True
    if any(name and name not in known.values for name in node.inputs) or not node.inputs:
        return False
    inputs = [known.values[name] if name else None for name in node.inputs]
    results = evaluate(node.op_type, inputs, dict(node.attributes), len(node.outputs))
    if results is None:
        return False
    _record(node, list(results), known)
    return True


def _record(node: Node, results: list[np.ndarray], known: Probe) -> None:
    for name, value in zip(node.outputs, results, strict=False):
        if name:
            known.know(name, value)


def _infer(node: Node, known: Probe) -> None:
    if any(name and name not in known.types for name in node.inputs):
        return
    inputs = [known.types[name] if name else None for name in node.inputs]
    data = {i: known.values[n] for i, n in enumerate(node.inputs) if n in known.values}
    key = (
        node.op_type,
        node.domain,
        tuple(inputs),
        tuple((i, v.tobytes()) for i, v in data.items()),
        tuple(a.SerializeToString() for a in node.proto.attribute if a.name != "value"),
        len(node.outputs),
    )
    if key not in known.cache:
        known.cache[key] = infer_call(node, inputs, data, node.opset or known.graph.opset)
    for name, result in zip(node.outputs, known.cache[key], strict=False):
        if name and result is not None:
            known.types[name] = result
