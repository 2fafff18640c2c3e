"""Every change of structure is reported, changes of weights are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphrebase.io import read_model, structure_difference

Save = Callable[..., Path]
Make = Callable[..., ModelProto]


def shorter_bias(model: ModelProto) -> None:
    bias = model.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(63, np.float32), "bias"))


def half_bias(model: ModelProto) -> None:
    bias = model.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(64, np.float16), "bias"))


def loop(model: ModelProto) -> ModelProto:
    model.graph.node[4].op_type = "Loop"
    return model


def inner_weights(model: ModelProto) -> None:
    inner = model.graph.node[4].attribute[0].g.initializer[0]
    inner.raw_data = bytes(8000)


def swap_nodes(model: ModelProto) -> None:
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([nodes[2], nodes[0], nodes[1], *nodes[3:]])


CHANGES: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "dims": (shorter_bias, "model.graph.initializer[bias].dims"),
    "dtype": (half_bias, "model.graph.initializer[bias].data_type"),
    "node order": (swap_nodes, "model.graph.node: the order differs"),
    "node gone": (lambda m: m.graph.node.pop(), "only in the first (If node)"),
    "node more": (
        lambda m: m.graph.node.append(helper.make_node("Relu", ["y"], ["r"])),
        "model.graph.node[r]: only in the second (Relu node)",
    ),
    "operator": (lambda m: setattr(m.graph.node[1], "op_type", "Sub"), "'Add' against 'Sub'"),
    "attribute": (lambda m: setattr(m.graph.node[3].attribute[0], "f", 0.25), "0.5 against 0.25"),
    "input": (lambda m: m.graph.node[0].input.append("extra"), ".input[2]: only in the second"),
    "interface": (lambda m: m.graph.output.pop(), "model.graph.output[y]: only in the first"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 21), "20 against 21"),
    "doc": (lambda m: setattr(m.graph, "doc_string", "new"), "nothing against 'new'"),
    "metadata": (lambda m: m.metadata_props.add(key="k", value="v"), "metadata_props[k]"),
    "function": (lambda m: m.functions.add(name="f", domain="d"), "model.functions[d:f]"),
    "small tensor": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "new")),
        "model.graph.initializer[new]: only in the second",
    ),
    "unknown field": (lambda m: m.MergeFromString(b"\xf8\x3f\x01"), "unknown"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_change_of_structure_is_reported(case: str, save: Save, make_model: Make) -> None:
    change, message = CHANGES[case]
    proto = make_model()
    change(proto)
    first = read_model(save())
    second = read_model(save(proto, folder="changed"))
    lines = structure_difference(first, second)
    assert any(message in line for line in lines), lines
    assert structure_difference(second, first)
    assert structure_difference(second, second) == []


def only_weights(model: ModelProto) -> None:
    for tensor in (*model.graph.initializer, model.graph.node[2].attribute[0].t):
        tensor.raw_data = bytes(len(tensor.raw_data))
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [64], [1.0] * 64)  # other storage form
    model.graph.initializer[1].CopyFrom(bias)
    model.metadata_props.add(key="graphrebase.run", value="1")


@pytest.mark.parametrize("external", ["none", "one", "many"])
def test_weights_and_provenance_are_not_reported(
    external: str, save: Save, make_model: Make
) -> None:
    proto = make_model()
    only_weights(proto)
    second = read_model(save(proto, folder="changed", external="none"))
    first_path = save(external=external)
    if external != "none":  # move the subgraph's tensor back inside: it is no weight
        onnx.load(first_path)
        model = onnx.load(first_path, load_external_data=False)
        inner = make_model().graph.node[4]
        model.graph.node[4].CopyFrom(inner)
        first_path.write_bytes(model.SerializeToString())
    assert structure_difference(read_model(first_path), second) == []


@pytest.mark.parametrize("external", ["none", "one"])
def test_weights_in_a_branch_are_weights(external: str, save: Save, make_model: Make) -> None:
    proto = make_model()
    inner_weights(proto)
    first = read_model(save(external=external))
    second = read_model(save(proto, external=external, folder="changed"))
    assert structure_difference(first, second) == []


def test_weights_in_a_loop_body_are_compared(save: Save, make_model: Make) -> None:
    proto = loop(make_model())
    inner_weights(proto)
    first = read_model(save(loop(make_model())))
    second = read_model(save(proto, folder="changed"))
    (line,) = structure_difference(first, second)
    assert "raw_data" in line


def test_external_weights_in_a_loop_body_are_compared(save: Save, make_model: Make) -> None:
    proto = loop(make_model())
    inner_weights(proto)
    first = read_model(save(loop(make_model()), external="one"))
    same = read_model(save(loop(make_model()), external="many", folder="same"))
    second = read_model(save(proto, external="one", folder="changed"))
    assert structure_difference(first, same) == []
    assert structure_difference(first, second) == ["external data of 'inner': the bytes differ"]
