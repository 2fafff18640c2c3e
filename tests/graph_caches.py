"""One attention layer with a KV cache, written by hand; no name says what is what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, DIM = 2, 3
WIDTH = HEADS * DIM


def save_decoder(path: Path, *, grows: bool = True, shows: bool = True, seed: int = 0) -> Path:
    """Save x (B, T, 6) -> attention over heads of 3 -> y, with caches a and b as inputs.

    Args:
        path: the file.
        grows: the caches are joined with the keys and values of x; else they are read as given.
        shows: the keys and values that attention reads are outputs c and d.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal((WIDTH, WIDTH)) for name in ("wq", "wk", "wv", "wo")}
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    constants += [
        numpy_helper.from_array(np.array([0, 0, HEADS, DIM], np.int64), "split"),
        numpy_helper.from_array(np.array([0, 0, WIDTH], np.int64), "joined"),
    ]
    nodes = [*_heads("q", "wq"), *_heads("k", "wk"), *_heads("v", "wv")]
    for new, past, whole in (("k", "a", "c"), ("v", "b", "d")):
        if grows:
            nodes.append(helper.make_node("Concat", [past, new], [whole], axis=2))
        else:
            nodes.append(helper.make_node("Mul", [past, "one"], [whole]))
    constants.append(numpy_helper.from_array(np.ones((), np.float32), "one"))
    nodes += [
        helper.make_node("Transpose", ["c"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "d"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["rows"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["rows", "joined"], ["together"]),
        helper.make_node("MatMul", ["together", "wo"], ["y"]),
    ]
    past = ["B", HEADS, "P", DIM]
    inputs = [("x", ["B", "T", WIDTH]), ("a", past), ("b", past)]
    outputs = [("y", ["B", "T", WIDTH])]
    if shows:
        outputs += [(name, ["B", HEADS, "P + T" if grows else "P", DIM]) for name in ("c", "d")]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def _heads(name: str, weight: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", weight], [f"{name}_flat"]),
        helper.make_node("Reshape", [f"{name}_flat", "split"], [f"{name}_grid"]),
        helper.make_node("Transpose", [f"{name}_grid"], [name], perm=[0, 2, 1, 3]),
    ]


def save_merged(path: Path, *, inside: bool = False) -> Path:
    """Save a decoder that runs with a cache or without, as optimum merges the two: one If.

    Args:
        path: the file.
        inside: each branch keeps an output projection of its own, stored in the branch.
    """
    grown = onnx.load(save_decoder(path)).graph
    first = onnx.GraphProto()
    first.CopyFrom(grown)
    for node in first.node:
        if node.op_type == "Concat":
            node.op_type = "Identity"
            del node.attribute[:], node.input[0]
    own = [tensor for tensor in grown.initializer if inside and tensor.name == "wo"]
    branches = [
        helper.make_graph(
            graph.node, "branch", [], [_untyped(v.name) for v in grown.output], initializer=own
        )
        for graph in (grown, first)
    ]
    names = [value.name for value in grown.output]
    node = helper.make_node("If", ["flag"], names, then_branch=branches[0], else_branch=branches[1])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [node],
        "merged",
        [*grown.input, flag],
        [_untyped(name) for name in names],
        [tensor for tensor in grown.initializer if tensor not in own],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def _untyped(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
