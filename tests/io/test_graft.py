"""A graph with another end: what stays is byte for byte what it was, external data included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphrebase.io import read_model
from graphrebase.io.graft import Graft, needed, write_grafted


def save(path: Path) -> Path:
    """Save x -> MatMul w1 -> Relu -> MatMul w2 -> y, the weights in external data."""
    source = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(source.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (3, 6)), ("w2", (6, 2)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 3), ("y", 2))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model, path, save_as_external_data=True, location="weights/data.bin", size_threshold=0
    )
    return path


def test_only_the_end_changes(tmp_path: Path) -> None:
    (tmp_path / "source" / "weights").mkdir(parents=True)
    model = read_model(save(tmp_path / "source" / "model.onnx"))
    kept, names = needed(model.proto.graph, ["b"], set())
    assert (kept, names) == ({0, 1}, {"b", "a", "x", "w1"})
    new = numpy_helper.from_array(np.ones((6, 4), np.float32), "w3")
    graft = Graft(
        frozenset(kept),
        (helper.make_node("MatMul", ["b", "w3"], ["z"]),),
        (new,),
        (),
        (helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4]),),
        (helper.make_opsetid("com.microsoft", 1),),
        frozenset({"w2"}),
    )
    (tmp_path / "result").mkdir()
    path = write_grafted(model, tmp_path / "result", graft)
    before, after = model.proto.graph, read_model(path).proto.graph
    stayed = [node.SerializeToString() for node in before.node[:2]]
    assert [node.SerializeToString() for node in after.node[:-1]] == stayed
    assert [x.name for x in after.initializer] == ["w1", "w3"]
    assert [x.name for x in after.output] == ["z"]
    tensors = read_model(path).tensors
    np.testing.assert_array_equal(tensors["w1"].load(), model.tensors["w1"].load())
    np.testing.assert_array_equal(tensors["w3"].load(), np.ones((6, 4)))
    assert {x.domain for x in read_model(path).proto.opset_import} == {"", "com.microsoft"}
    assert (tmp_path / "source" / "model.onnx").read_bytes() != path.read_bytes()
