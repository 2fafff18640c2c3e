"""Small models of every storage form, built by hand and saved the ways exporters save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

Save = Callable[..., Path]


def make_model(extra: tuple[TensorProto, ...] = (), dtype: str = "float32") -> ModelProto:
    """Return y = x @ weight + bias, with a Constant, an If with its own initializer, metadata."""
    rng = np.random.default_rng(0)
    big = numpy_helper.from_array(rng.normal(size=(64, 64)).astype(dtype), "weight")
    small = numpy_helper.from_array(rng.normal(size=64).astype(dtype), "bias")
    constant = numpy_helper.from_array(rng.normal(size=(40, 64)).astype(np.float32))
    inner = numpy_helper.from_array(np.arange(2000, dtype=np.float32), "inner")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["branch_out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, [2000])],
        [inner],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["y"], name="add"),
        helper.make_node("Constant", [], ["table"], value=constant),
        helper.make_node("Constant", [], ["scale"], value_float=0.5),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "main",
        [
            helper.make_tensor_value_info("x", kind, ["batch", 64]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", kind, ["batch", 64])],
        [big, small, *extra],
    )
    model = helper.make_model(
        graph, producer_name="hand", opset_imports=[helper.make_opsetid("", 20)]
    )
    helper.set_model_props(model, {"author": "test", "task": "none"})
    return model


def save_model(
    folder: Path, model: ModelProto | None = None, *, name: str = "m.onnx", external: str = "none"
) -> Path:
    """Save ``model`` with its tensors inside, in ``one`` data file, or in ``many``."""
    copy = ModelProto()
    copy.CopyFrom(make_model() if model is None else model)
    if external != "none":
        convert_model_to_external_data(
            copy,
            all_tensors_to_one_file=external == "one",
            location=f"{name}.data",
            size_threshold=0,
            convert_attribute=True,
        )
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    onnx.save(copy, path)
    return path


@pytest.fixture(name="make_model")
def make_model_fixture() -> Callable[..., ModelProto]:
    """Return ``make_model``."""
    return make_model


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return ``save_model`` into a folder ``in`` of the test's own folder."""

    def saved(model: ModelProto | None = None, *, folder: str = "in", **options: str) -> Path:
        return save_model(tmp_path / folder, model, **options)

    return saved
