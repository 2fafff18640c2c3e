"""BERT as tf2onnx writes it, from the same weights, without TensorFlow.

A dense layer is a `Tensordot`: Reshape to rows, MatMul, Reshape back, then the bias. Sizes are read
in int32. The mean over the features is a GlobalAveragePool, a norm is `x * (g r) + (b - mean g r)`,
Softmax names no axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zoo_models.families import FAMILIES
from zoo_models.paths.path import Source
from zoo_models.sizes import HEAD_DIM, HEADS, HIDDEN, LAYERS

Weights = Mapping[str, np.ndarray]
EPSILON = 1e-12
MASKED = -10000.0


@dataclass(slots=True)
class _Graph:
    """Nodes and constants while they are written; every call returns the name of a result."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    number: itertools.count[int] = field(default_factory=itertools.count)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}__{next(self.number)}:0"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, kind: type[np.generic] = np.float32, name: str = "") -> str:
        name = f"{name or 'const'}__{next(self.number)}:0"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weight(self, weights: Weights, name: str, *, transposed: bool = False) -> str:
        value = weights[name].T if transposed else weights[name]
        return self.constant(value, name=f"{name.replace('.', '/')}/ReadVariableOp")

    def size(self, x: str, axis: int) -> str:
        """Return the size of an axis, int32 (1,)."""
        small = self.op("Cast", self.op("Shape", x), to=TensorProto.INT32)
        bounds = [self.constant([n], np.int64) for n in (axis, axis + 1, 0)]
        scalar = self.op("Squeeze", self.op("Slice", small, *bounds), bounds[2])
        return self.op("Unsqueeze", scalar, bounds[2])

    def reshape(self, x: str, *sizes: int | str) -> str:
        """Reshape to sizes that are known or names of int32 (1,)."""
        parts = [s if isinstance(s, str) else self.constant([s], np.int32) for s in sizes]
        shape = self.op("Cast", self.op("Concat", *parts, axis=0), to=TensorProto.INT64)
        return self.op("Reshape", x, shape)


@dataclass(frozen=True, slots=True)
class _Bert:
    graph: _Graph
    weights: Weights
    batch: str
    sequence: str

    def dense(self, x: str, name: str) -> str:
        """Map (batch, sequence, in) to (batch, sequence, out)."""
        g, (width, inner) = self.graph, self.weights[f"{name}.weight"].shape
        rows = g.op("Reshape", x, g.constant([-1, inner], np.int64))
        found = g.op("MatMul", rows, g.weight(self.weights, f"{name}.weight", transposed=True))
        found = g.reshape(found, self.batch, self.sequence, width)
        return g.op("Add", found, g.weight(self.weights, f"{name}.bias"))

    def flat(self, x: str, name: str) -> str:
        """Map (batch, in) to (batch, out)."""
        g = self.graph
        found = g.op("MatMul", x, g.weight(self.weights, f"{name}.weight", transposed=True))
        return g.op("Add", found, g.weight(self.weights, f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        g = self.graph
        mean = g.op("GlobalAveragePool", x)
        apart = g.op("Sub", x, mean)
        variance = g.op("GlobalAveragePool", g.op("Mul", apart, apart))
        deviation = g.op("Sqrt", g.op("Add", variance, g.constant(EPSILON)))
        gain = g.op("Mul", g.op("Reciprocal", deviation), g.weight(self.weights, f"{name}.weight"))
        shift = g.op("Sub", g.weight(self.weights, f"{name}.bias"), g.op("Mul", mean, gain))
        return g.op("Add", g.op("Mul", x, gain), shift)

    def embed(self, ids: str, types: str) -> str:
        g, stem = self.graph, "embeddings"
        zero, one = g.constant(0, np.int32), g.constant(1, np.int32)
        end = g.op("Squeeze", self.sequence, g.constant([0], np.int64))
        places = g.op("Range", zero, end, one)
        places = g.op("Unsqueeze", places, g.constant([0], np.int64))
        looked = [
            g.op("Gather", g.weight(self.weights, f"{stem}.{table}_embeddings.weight"), which)
            for table, which in (("word", ids), ("position", places), ("token_type", types))
        ]
        total = g.op("Add", g.op("Add", *looked[:2]), looked[2])
        return self.norm(total, f"{stem}.LayerNorm")

    def bias(self, mask: str) -> str:
        """Return what is added to the scores, (batch, 1, 1, sequence)."""
        g = self.graph
        wide = g.op("Cast", g.reshape(mask, self.batch, 1, 1, self.sequence), to=TensorProto.FLOAT)
        return g.op("Mul", g.op("Sub", g.constant(1.0), wide), g.constant(MASKED))

    def attention(self, x: str, name: str, bias: str) -> str:
        g = self.graph
        query, key, value = (
            g.op(
                "Transpose",
                g.reshape(self.dense(x, f"{name}.self.{part}"), self.batch, -1, HEADS, HEAD_DIM),
                perm=order,
            )
            for part, order in (
                ("query", (0, 2, 1, 3)),
                ("key", (0, 2, 3, 1)),
                ("value", (0, 2, 1, 3)),
            )
        )
        scores = g.op("Div", g.op("MatMul", query, key), g.constant(math.sqrt(HEAD_DIM)))
        share = g.op("Softmax", g.op("Add", scores, bias))
        mixed = g.op("Transpose", g.op("MatMul", share, value), perm=(0, 2, 1, 3))
        return self.dense(g.reshape(mixed, self.batch, -1, HIDDEN), f"{name}.output.dense")

    def layer(self, x: str, name: str, bias: str) -> str:
        g = self.graph
        x = g.op("Add", self.attention(x, f"{name}.attention", bias), x)
        x = self.norm(x, f"{name}.attention.output.LayerNorm")
        up = self.dense(x, f"{name}.intermediate.dense")
        bell = g.op("Erf", g.op("Div", up, g.constant(math.sqrt(2))))
        active = g.op("Mul", g.op("Mul", up, g.constant(0.5)), g.op("Add", bell, g.constant(1.0)))
        x = g.op("Add", self.dense(active, f"{name}.output.dense"), x)
        return self.norm(x, f"{name}.output.LayerNorm")

    def pool(self, x: str) -> str:
        g = self.graph
        first = g.op("Slice", x, *(g.constant([n], np.int64) for n in (0, 1, 1)))
        first = g.op("Squeeze", first, g.constant([1], np.int64))
        return g.op("Tanh", self.flat(first, "pooler.dense"))


def tf2onnx(source: Source, output: Path) -> None:
    """Write a BERT, with or without a classifier, from the torch module's weights."""
    from zoo_models.modules import make_module

    state = make_module(source.family)[0].model.state_dict()
    weights = {name.removeprefix("bert."): value.numpy() for name, value in state.items()}
    known, graph = FAMILIES[source.family], _Graph()
    bert = _Bert(graph, weights, *(graph.size(known.inputs[0], axis) for axis in (0, 1)))
    ids, mask, *types = known.inputs
    bias = bert.bias(mask)
    x = bert.embed(ids, types[0] if types else graph.op("Sub", ids, ids))
    for layer in range(LAYERS):
        x = bert.layer(x, f"encoder.layer.{layer}", bias)
    pooled = bert.pool(x)
    results = {"last_hidden_state": x, "pooler_output": pooled}
    if "logits" in known.outputs:
        results["logits"] = bert.flat(pooled, "classifier")
    for name in known.outputs:
        graph.nodes.append(helper.make_node("Identity", [results[name]], [name]))
    onnx.save(_model(graph, known.inputs, known.outputs), output)


def _model(graph: _Graph, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> onnx.ModelProto:
    axes = ["batch", "sequence"]
    ends = (
        [helper.make_tensor_value_info(n, TensorProto.INT64, axes) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )
    made = helper.make_graph(graph.nodes, "tf2onnx", *ends, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
