"""No damage to a file gives anything but a valid model or an InputError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphrebase.errors import InputError, OutputError
from graphrebase.io import Model, read_model, structure_difference, write_model

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def small_model(kind: str) -> ModelProto:
    """Return a model of few bytes, so that damage hits structure and not payload."""
    tensors = [
        helper.make_tensor("f", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("s", TensorProto.STRING, [1], [b"text"]),
        numpy_helper.from_array(np.arange(3), "i"),
    ]
    value = helper.make_tensor("v", TensorProto.INT4, [3], [1, 2, 3])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Add", ["f", "x"], ["y"]),
    ]
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
    model = helper.make_model(helper.make_graph(nodes, "g", info, info, tensors))
    if kind == "external":
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "d"), ("offset", "4"), ("length", "8")):
            tensor.external_data.add(key=key, value=text)
    return model


@pytest.mark.parametrize("kind", ["inline", "external"])
@FUZZ
@given(data=st.data())
def test_damage_is_noticed_or_harmless(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(small_model(kind).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    if data.draw(st.booleans()):
        content += data.draw(st.binary(max_size=20))
    (tmp_path / "d").write_bytes(bytes(16))
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    check_opens(path)


def check_opens(path: Path) -> None:
    """Open the model, load all it promises, write it back; only our own errors may come out."""
    try:
        model = read_model(path)
    except InputError:
        return
    names = {item.name for item in model.proto.graph.initializer}
    assert names <= model.tensors.keys()
    loaded = {}
    for name, ref in model.tensors.items():
        try:
            array = ref.load()
        except InputError:  # a payload that parses but does not decode
            continue
        assert (array.dtype, array.shape, array.nbytes) == (ref.dtype, ref.shape, ref.nbytes)
        if ref.dtype.kind != "O":
            loaded[name] = array
    check_round_trip(model, loaded)


def check_round_trip(model: Model, loaded: dict[str, np.ndarray]) -> None:
    """Write the model as it is, then with every tensor replaced by itself."""
    out = model.path.with_name("out") / "m.onnx"
    out.parent.mkdir(exist_ok=True)
    write_model(model, out, {}, {}, force=True)
    assert out.read_bytes() == model.path.read_bytes()
    try:
        write_model(model, out, {k: lambda v=v: v for k, v in loaded.items()}, {}, force=True)
    except OutputError as error:
        assert "share bytes" in error.message
        return
    written = read_model(out)
    assert structure_difference(model, written) == []
    for name, array in loaded.items():
        assert written.tensors[name].load().tobytes() == array.tobytes()


def test_every_cut_is_noticed_or_harmless(tmp_path: Path) -> None:
    content = small_model("inline").SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        check_opens(path)


def test_the_undamaged_model_opens(tmp_path: Path, save: Callable[..., Path]) -> None:
    model = read_model(save(small_model("inline")))
    assert [model.tensors[name].load().tolist() for name in ("f", "h", "s", "i", "c")] == [
        [1, 2],
        [1, 2],
        ["text"],
        [0, 1, 2],
        [1, 2, 3],
    ]
