"""Opening models: what is kept, what is dropped, and what is refused."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from graphrebase.errors import InputError
from graphrebase.io import Model, read_model
from graphrebase.io.wire import encode_field

Save = Callable[..., Path]
Make = Callable[..., ModelProto]
LAYOUTS = ("none", "one", "many")


def weights_of(model: ModelProto) -> dict[str, np.ndarray]:
    tensors = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("external", LAYOUTS)
def test_every_tensor_is_referred_to(external: str, save: Save, make_model: Make) -> None:
    model = read_model(save(external=external))
    expected = weights_of(make_model())
    branches = {f"z.{way}_branch::inner": np.arange(2000) for way in ("else", "then")}
    expected |= branches
    assert list(model.tensors) == ["table", *branches, "weight", "bias"] or external != "none"
    assert model.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(model.tensors[name].load(), array)


@pytest.mark.parametrize("external", LAYOUTS)
def test_proto_keeps_small_payloads_only(external: str, save: Save, make_model: Make) -> None:
    proto = read_model(save(external=external)).proto
    weight, bias = proto.graph.initializer
    table = proto.graph.node[2].attribute[0].t
    assert (list(weight.dims), weight.data_type, weight.name) == ([64, 64], 1, "weight")
    assert not weight.raw_data
    assert not table.raw_data
    assert len(proto.SerializeToString()) < 20_000
    np.testing.assert_array_equal(numpy_helper.to_array(bias), weights_of(make_model())["bias"])


def test_proto_is_the_file_but_for_payloads(save: Save) -> None:
    path = save()
    expected = onnx.load(path)
    expected.graph.initializer[0].ClearField("raw_data")
    expected.graph.node[2].attribute[0].t.ClearField("raw_data")
    for attribute in expected.graph.node[4].attribute:
        attribute.g.initializer[0].ClearField("raw_data")
    assert read_model(path).proto == expected


def test_initializers_of_branches_are_listed_by_scope(save: Save) -> None:
    model = read_model(save())
    for attribute in model.proto.graph.node[4].attribute:
        assert not attribute.g.initializer[0].raw_data
        inner = model.tensors[f"z.{attribute.name}::inner"].load()
        np.testing.assert_array_equal(inner, np.arange(2000))
    assert "inner" not in model.tensors


def test_initializers_of_loop_bodies_stay_and_are_not_listed(save: Save, make_model: Make) -> None:
    proto = make_model()
    proto.graph.node[4].op_type = "Loop"
    model = read_model(save(proto))
    branch = model.proto.graph.node[4].attribute[0].g
    assert len(branch.initializer[0].raw_data) == 8000
    assert not any("inner" in name for name in model.tensors)


def test_custom_operator_called_constant_is_left_alone(save: Save, make_model: Make) -> None:
    proto = make_model()
    proto.graph.node[2].domain = "custom"
    assert "table" not in read_model(save(proto)).tensors


@pytest.mark.parametrize("external", ["none", "one"])
def test_reading_a_big_model_does_not_load_it(external: str, save: Save, make_model: Make) -> None:
    big = numpy_helper.from_array(np.ones((4096, 4096), np.float32), "big")  # 64 MB
    path = save(make_model((big,)), external=external)
    del big
    tracemalloc.start()
    model = read_model(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert model.tensors["big"].nbytes == 64 << 20


def test_sha256_is_that_of_the_file_and_sees_data_files(save: Save) -> None:
    path = save()
    assert read_model(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    path = save(external="one")
    before = read_model(path).sha256()
    assert before == read_model(path).sha256()
    data = path.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    assert read_model(path).sha256() != before


def test_files_lists_model_and_data(save: Save) -> None:
    path = save(external="one")
    assert read_model(path).files == (path, path.with_name("m.onnx.data").resolve())


def test_linked_model_in_a_blob_cache_finds_its_data(save: Save, tmp_path: Path) -> None:
    """A Hugging Face cache links model and data to a common folder of blobs."""
    blob = save(external="one", folder="blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    blob.rename(blob.with_name("abc"))
    (snapshot / "m.onnx").symlink_to(blob.with_name("abc"))
    with pytest.raises(InputError, match="does not exist"):
        read_model(snapshot / "m.onnx")
    blob.with_name("m.onnx.data").rename(blob.with_name("def"))
    (snapshot / "m.onnx.data").symlink_to(blob.with_name("def"))
    read_model(snapshot / "m.onnx").tensors["weight"].load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, world", "not a readable ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04rest", "PyTorch"),
        (ModelProto(ir_version=8).SerializeToString(), "no graph"),
        (
            2 * ModelProto(graph=onnx.GraphProto(name="g")).SerializeToString(),
            "more than one graph",
        ),
    ],
)
def test_what_is_not_a_model_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_model(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("none", "not exist"), (".", "folder"), ("pipe", "not a regular file")):
        with pytest.raises(InputError, match=message):
            read_model(tmp_path / name)


def broken(make_model: Make, change: Callable[[ModelProto], object]) -> ModelProto:
    proto = make_model()
    change(proto)
    return proto


BROKEN: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "duplicate name": (lambda m: m.graph.initializer.add(name="weight"), "two tensors"),
    "no name": (lambda m: m.graph.initializer.add(), "no name"),
    "name of a constant": (lambda m: m.graph.initializer.add(name="table"), "two tensors"),
    "unknown type": (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "type 99"),
    "no type": (lambda m: setattr(m.graph.initializer[0], "data_type", 0), "type 0"),
    "huge dims": (lambda m: m.graph.initializer[0].dims.extend([1 << 62] * 2), "impossible"),
    "huge empty": (lambda m: m.graph.initializer[0].dims.extend([0, 1 << 62, 9]), "impossible"),
    "negative dim": (lambda m: m.graph.initializer[0].dims.append(-1), "impossible"),
    "rank": (lambda m: m.graph.initializer[0].dims.extend([1] * 70), "impossible"),
    "lying dims": (lambda m: m.graph.initializer[0].dims.append(1 << 40), "payload has"),
    "short payload": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1"), "payload has"),
    "no payload": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "payload has"),
    "two payloads": (lambda m: m.graph.initializer[0].float_data.append(1), "more than one"),
    "raw strings": (
        lambda m: m.graph.initializer.add(name="s", data_type=8, dims=[1], raw_data=bytes(8)),
        "field of object",
    ),
    "wrong field": (
        lambda m: m.graph.initializer.add(name="s", data_type=1, dims=[1], int32_data=[1]),
        "field of float32",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_inconsistent_tensors_are_refused(case: str, save: Save, make_model: Make) -> None:
    change, message = BROKEN[case]
    with pytest.raises(InputError) as caught:
        read_model(save(broken(make_model, change)))
    assert message in caught.value.message


def test_text_that_is_not_utf8_is_refused(save: Save) -> None:
    path = save()
    path.write_bytes(path.read_bytes().replace(b"\x1a\x03add", b"\x1a\x03a\xff\xfe"))
    with pytest.raises(InputError, match="UTF-8"):
        read_model(path)


def edit_entry(path: Path, key: str, value: str) -> Path:
    """Set an external data entry of ``weight`` in a saved model."""
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    found = [entry for entry in entries if entry.key == key] or [entries.add(key=key)]
    found[0].value = value
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "/etc/passwd", "absolute"),
        ("location", "C:\\data", "absolute"),
        ("location", "\\\\host\\share", "absolute"),
        ("location", "../secret", "hidden"),
        ("location", "a/../../secret", "hidden"),
        ("location", "a\\..\\secret", "hidden"),
        ("location", ".bashrc", "hidden"),
        ("location", "", "empty"),
        ("location", "a\0b", "NUL"),
        ("location", "link", "out of the model's folder"),
        ("location", "folder_link/secret", "out of the model's folder"),
        ("location", "loop", "unsafe|cannot open"),
        ("location", "absent", "does not exist"),
        ("location", "pipe", "not a regular file"),
        ("location", "x" * 300, "unsafe|cannot open"),
        ("location", "m.onnx", "names itself"),
        ("offset", "-4", "not a number"),
        ("offset", "٣", "not a number"),
        ("offset", "1e3", "not a number"),
        ("offset", "9" * 18, "ends at byte"),
        ("length", "9" * 18, "ends at byte"),
        ("length", "100", "payload has"),
    ],
)
def test_attacks_through_external_data(
    key: str, value: str, message: str, save: Save, tmp_path: Path
) -> None:
    path = save(external="one")
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (path.parent / "link").symlink_to(tmp_path / "secret")
    (path.parent / "folder_link").symlink_to(tmp_path)
    (path.parent / "loop").symlink_to(path.parent / "loop")
    os.mkfifo(path.parent / "pipe")
    read_model(path)
    with pytest.raises(InputError, match=message):
        read_model(edit_entry(path, key, value))


def test_missing_data_file_is_named_with_advice(save: Save) -> None:
    path = save(external="one")
    path.with_name("m.onnx.data").unlink()
    with pytest.raises(InputError) as caught:
        read_model(path)
    assert "'m.onnx.data'" in caught.value.message
    assert "copy 'm.onnx.data' beside the model" in str(caught.value)


def test_data_file_cut_short_is_refused(save: Save) -> None:
    path = save(external="one")
    os.truncate(path.with_name("m.onnx.data"), 5000)
    with pytest.raises(InputError, match="ends at byte"):
        read_model(path)


def test_external_strings_are_refused(save: Save) -> None:
    path = save(external="one")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].data_type = TensorProto.STRING
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="strings"):
        read_model(path)


def test_nesting_bomb_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(2000):  # node.attribute.g.node...
        graph = encode_field(1, encode_field(5, encode_field(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(encode_field(7, graph))
    with pytest.raises(InputError, match="ONNX"):
        read_model(path)


def test_model_cannot_be_changed_through_its_mappings(save: Save) -> None:
    model: Model = read_model(save())
    with pytest.raises(TypeError):
        model.tensors["weight"] = model.tensors["bias"]  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        model.tensors["weight"].load()[0] = 1
