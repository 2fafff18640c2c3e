"""Exposed values: what a node computes, in memory, with weights replaced where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from structure import fused_models
from zoo_fixture import zoo_model

from graphrebase.errors import InputError
from graphrebase.graph.inlined import with_branches
from graphrebase.io import read_model
from graphrebase.rebase.feeds import complete
from graphrebase.runtime import Session, exposed
from graphrebase.runtime.image_probes import spread
from graphrebase.runtime.images import pool
from graphrebase.structure import Mlp, find_structure


def test_a_value_inside_becomes_the_output() -> None:
    path = zoo_model("vit-cls-ts17-eager").path
    before = path.read_bytes()
    structure = find_structure(read_model(path))
    head = structure.roles["head.pooled.0.weight"]
    whole = Session(path)
    shape = [d if isinstance(d, int) else 2 for d in whole.inputs["pixel_values"].shape]
    inputs = {"pixel_values": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    hidden = exposed(structure.model, [head.reads]).run(inputs)[head.reads]
    bias = structure.read("head.pooled.0.bias")
    logits = hidden @ structure.read("head.pooled.0.weight").T + bias
    np.testing.assert_allclose(logits, whole.run(inputs)[whole.outputs[0]], atol=1e-5)
    assert path.read_bytes() == before
    tensor = structure.roles["head.pooled.0.bias"].view.tensor
    changed = exposed(structure.model, list(whole.outputs), {tensor: bias + 1})
    np.testing.assert_allclose(changed.run(inputs)[whole.outputs[0]], logits + 1, atol=1e-5)
    with pytest.raises(InputError):
        exposed(structure.model, list(whole.outputs), {"nothing": bias})


def test_values_inside_fused_operators_are_exposed(tmp_path: Path) -> None:
    found, inputs = {}, {"ids": np.arange(12, dtype=np.int32).reshape(2, 6)}
    for form in ("written out", "Attention"):
        structure = find_structure(read_model(fused_models.save(tmp_path / f"{form}.onnx", form)))
        streams = [b.residual.node.outputs[0] for b in structure.blocks if b.residual]
        biased = [b.up.output for b in structure.blocks if isinstance(b, Mlp)]
        first, *rest = streams
        values = exposed(structure.model, [*streams, *biased]).run(inputs)
        again = exposed(structure.model, rest, given={first: np.dtype(np.float32)})
        assert list(again.inputs) == [first]
        later = again.run({first: values[first]})
        for name in rest:
            np.testing.assert_allclose(later[name], values[name], atol=1e-5)
        found[form] = list(values.values())
    for plain, fused in zip(*found.values(), strict=True):
        np.testing.assert_allclose(plain, fused, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 40, 24)])
def test_pooled_images_fill_their_range(shape) -> None:
    images = pool(np.random.default_rng(0), 30, shape, -1.0, 1.0)
    assert images.shape == (30, *shape)
    assert images.min() >= -1.01 and images.max() <= 1.01
    assert images.std() > 0.2
    assert len({image.tobytes() for image in images}) == 30


def test_the_selection_takes_classes_in_turn() -> None:
    worth = np.array([0.9, 0.8, 0.7, 0.1, 0.6])
    classes = np.array([0, 0, 0, 1, 2])
    assert spread(worth, classes, 4).tolist() == [0, 4, 3, 1]


def test_values_inside_a_branch_are_exposed() -> None:
    found = []
    tokens = np.random.default_rng(0).integers(0, 40, (2, 7))
    for name in ("llama-cache-ts17-eager", "llama-cache-ts17-eager+merged"):
        structure = find_structure(read_model(zoo_model(name).path))
        streams = [b.residual.node.outputs[0] for b in structure.blocks if b.residual]
        session = exposed(structure.model, streams)
        assert not any(spec.dtype.kind == "b" for spec in session.inputs.values())
        values = session.run(complete(session, {"input_ids": tokens}))
        found.append([values[name] for name in streams])
        first, *rest = streams
        later = exposed(structure.model, rest, given={first: np.dtype(np.float32)})
        inputs = complete(later, {"input_ids": tokens, first: values[first]})
        for name, value in later.run(inputs).items():
            np.testing.assert_allclose(value, values[name], atol=1e-5)
    for plain, merged in zip(*found, strict=True):
        np.testing.assert_allclose(plain, merged, atol=1e-5)


def test_branches_are_written_out_under_the_names_of_the_view() -> None:
    kinds = onnx.TensorProto
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Neg", ["h"], ["y"])],
        "inner", [], [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.float32([1, 2]), "w")],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["h"])],
        "other", [], [helper.make_empty_tensor_value_info("h")],
    )  # fmt: skip
    node = helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=other)
    graph = helper.make_graph(
        [node, helper.make_node("Abs", ["z"], ["out"])],
        "main",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [2])],
        [helper.make_tensor_value_info("out", kinds.FLOAT, [2])],
    )
    value = "z.then_branch::h"
    written = with_branches(graph, {value})
    assert [n.op_type for n in written.node] == ["Add", "Neg", "Identity", "Abs"]
    assert list(written.node[0].input) == ["x", "z.then_branch::w"]
    assert list(written.node[0].output) == [value] and list(written.node[2].output) == ["z"]
    assert [t.name for t in written.initializer] == ["z.then_branch::w"]
    for untouched in ({"out"}, {value, "z.else_branch::h"}):  # control: nothing or both asked for
        assert with_branches(graph, untouched) is graph
