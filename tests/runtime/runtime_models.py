"""Small models for the tests of the runtime room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphrebase.graph import Graph, build_graph
from graphrebase.io import read_model

Value = tuple[str, int, Sequence[int | str | None] | None]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Return a checked model of opset 17."""
    proto = helper.make_model(
        helper.make_graph(
            list(nodes),
            "small",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.checker.check_model(proto)
    return proto


def linear(weight: np.ndarray, *, batch: int | str = "batch", output: str = "logits") -> bytes:
    """Return ``output = x @ weight`` for x (batch, in)."""
    return model(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        [("x", FLOAT, [batch, weight.shape[0]])],
        [(output, FLOAT, [batch, weight.shape[1]])],
        {"w": weight.astype(np.float32)},
    ).SerializeToString()


def embedding(rows: int, positions: int, *, ids: str = "ids") -> onnx.ModelProto:
    """Return token plus position plus filled-in type embeddings, ids (batch, length)."""
    rng = np.random.default_rng(0)
    weights = {
        "tokens": rng.standard_normal((rows, 4)).astype(np.float32),
        "positions": rng.standard_normal((positions, 4)).astype(np.float32),
        "types": rng.standard_normal((2, 4)).astype(np.float32),
        "type_ids": np.zeros((1, 1), np.int64),
        "zero": np.array(0),
        "one": np.array(1),
    }
    nodes = [
        helper.make_node("Cast", [ids], ["cast"], to=TensorProto.INT32),
        helper.make_node("Gather", ["tokens", "cast"], ["t"]),
        helper.make_node("Shape", [ids], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["places"]),
        helper.make_node("Gather", ["positions", "places"], ["p"]),
        helper.make_node("Expand", ["type_ids", "shape"], ["all_types"]),
        helper.make_node("Gather", ["types", "all_types"], ["s"]),
        helper.make_node("Add", ["t", "p"], ["tp"]),
        helper.make_node("Add", ["tp", "s"], ["y"]),
    ]
    return model(
        nodes, [(ids, INT64, ["batch", "length"])], [("y", FLOAT, ["batch", "length", 4])], weights
    )


def graph_of(proto: onnx.ModelProto, folder: Path) -> Graph:
    """Return the graph view of a model, saved to ``folder`` first."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return build_graph(read_model(path))
