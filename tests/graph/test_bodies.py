"""A body computes what the operator computes, and gives the shapes that it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph.fused_calls import CALLS, FusedCall, floats, is_constant, save_call
from graph_models import save
from onnx import helper, numpy_helper

from graphrebase.graph import Graph, build_graph, infer_shapes
from graphrebase.graph.bodies import BODIES
from graphrebase.graph.bodies.table import BODY_OPSET
from graphrebase.io import read_model
from graphrebase.symmetry import find_symmetry


def run(model: bytes, call: FusedCall) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = {n: v for n, v in call.inputs.items() if v is not None and not is_constant(n, v)}
    names = [value.name for value in session.get_outputs()]
    wanted = [value.name for value in session.get_inputs()]
    results = session.run(names, {n: fed[n] for n in wanted})
    return dict(zip(names, results, strict=True))


def expanded(graph: Graph) -> bytes:
    """Return the view as a model of standard operators."""
    nodes = []
    for node in graph.nodes:
        assert not node.domain and not node.refusal
        proto = onnx.NodeProto()
        proto.CopyFrom(node.proto)
        nodes.append(proto)
    constants = [numpy_helper.from_array(ref.load(), n) for n, ref in graph.constants.items()]
    constants += [numpy_helper.from_array(value, n) for n, value in graph.literals.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in graph.outputs]
    made = helper.make_graph(nodes, "body", list(graph.inputs.values()), outputs, constants)
    opsets = [helper.make_opsetid("", BODY_OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=11).SerializeToString()


@pytest.mark.parametrize("name", CALLS)
def test_a_body_computes_what_the_operator_computes(name: str, tmp_path: Path) -> None:
    call = CALLS[name]
    path = save_call(call, tmp_path / "call.onnx")
    wanted = run(path.read_bytes(), call) if call.expected is None else call.expected
    graph = build_graph(read_model(path))
    shapes = infer_shapes(graph)
    for output, value in wanted.items():
        assert shapes.shape(output) == tuple((n, n) for n in value.shape), output
    if call.same:
        found = run(expanded(graph), call)
        for output, value in wanted.items():
            np.testing.assert_allclose(found[output], value, atol=call.tolerance, err_msg=output)


def test_control_another_weight_computes_something_else(tmp_path: Path) -> None:
    call = CALLS["attention"]
    changed = replace(call, inputs={**call.inputs, "w": floats(16, 48, seed=99)})
    one, other = (
        build_graph(read_model(save_call(c, tmp_path / f"{i}.onnx")))
        for i, c in enumerate((call, changed))
    )
    assert np.abs(run(expanded(one), call)["y"] - run(expanded(other), call)["y"]).max() > 0.1


#: Modules of bodies that need more than one call to be told apart, and have tests of their own.
OWN_TESTS = {"quantization", "sequences"}


def test_every_body_has_a_call() -> None:
    called = {(call.domain, call.op_type) for call in CALLS.values()}
    refused = {key for key in BODIES if key[0] == "com.microsoft.nchwc"}
    elsewhere = {k for k, made in BODIES.items() if made.__module__.rsplit(".")[-1] in OWN_TESTS}
    assert set(BODIES) - refused - elsewhere == called


REFUSED = {
    "do_rotary": replace(CALLS["attention"], attributes={"num_heads": 4, "do_rotary": 1}),
    "packed with a bias": replace(
        CALLS["multi-head packed"],
        inputs={"q": floats(2, 5, 4, 3, 4), "k": None, "v": None, "b": floats(48)},
    ),
    "a statistic that is read": replace(CALLS["skip rms norm"], outputs=("y", "", "deviation")),
    "an activation without a rule": replace(
        CALLS["gemm"], attributes={"transB": 1, "activation": "Unheard"}
    ),
    "no heads": replace(CALLS["attention"], attributes={}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_no_body_describes_is_frozen_and_said(name: str, tmp_path: Path) -> None:
    graph = build_graph(read_model(save_call(REFUSED[name], tmp_path / "call.onnx")))
    (node,) = graph.nodes
    assert node.refusal and node.fused is None
    symmetry = find_symmetry(graph)
    assert not symmetry.groups
    assert {item.reason for item in symmetry.frozen} == {node.refusal}


def test_a_body_is_found_where_equal_sizes_are_named_apart(tmp_path: Path) -> None:
    """tf2onnx names every dynamic size apart; the product must know the rank of the sum."""
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["h"]),
        helper.make_node("FusedMatMul", ["h", "h"], ["y"], domain="com.microsoft", transB=1),
    ]
    inputs = {"x": ["batch", "length"], "mask": ["other", "places"]}
    graph = build_graph(read_model(save(tmp_path, nodes, inputs, ["y"])))
    assert [node.op_type for node in graph.nodes] == ["Add", "Transpose", "MatMul"]


def test_a_body_is_found_behind_convolutions_with_long_strides(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], strides=[40]),
        helper.make_node("FusedMatMul", ["h", "h"], ["y"], domain="com.microsoft", transB=1),
    ]
    weights = {"w": floats(4, 1, 50)}
    graph = build_graph(
        read_model(save(tmp_path, nodes, {"x": ["B", 1, "samples"]}, ["y"], weights))
    )
    assert [node.op_type for node in graph.nodes] == ["Conv", "Transpose", "MatMul"]
