"""Writing: only what was replaced changes, all of it appears or nothing."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphrebase.errors import GraphRebaseError, InputError, OutputError, VerificationError
from graphrebase.io import Model, read_model, structure_difference, write_model

Save = Callable[..., Path]
Make = Callable[..., ModelProto]
LAYOUTS = ("none", "one", "many")


def new_weight() -> np.ndarray:
    return np.full((64, 64), 2.5, np.float32)


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below ``folder`` with their content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.onnx"


@pytest.mark.parametrize("external", LAYOUTS)
def test_without_replacements_the_copy_is_identical(external: str, save: Save, out: Path) -> None:
    path = save(external=external)
    write_model(read_model(path), out, {}, {})
    assert tree(out.parent) == tree(path.parent)


def test_only_the_payload_changes(save: Save, out: Path) -> None:
    path = save()
    model = read_model(path)
    write_model(model, out, {"weight": new_weight, "table": lambda: np.ones((40, 64))}, {})
    old = np.frombuffer(path.read_bytes(), np.uint8)
    new = np.frombuffer(out.read_bytes(), np.uint8)
    changed = set(np.flatnonzero(old != new).tolist())
    allowed = set()
    for name in ("weight", "table"):
        storage = model.tensors[name].storage
        allowed |= set(range(storage.offset, storage.offset + storage.length))
    assert changed <= allowed
    assert (onnx.numpy_helper.to_array(onnx.load(out).graph.initializer[0]) == 2.5).all()
    assert (read_model(out).tensors["table"].load() == 1).all()


@pytest.mark.parametrize("external", LAYOUTS)
def test_a_replaced_model_differs_in_weights_only(external: str, save: Save, out: Path) -> None:
    model = read_model(save(external=external))
    bias = np.arange(64, dtype=np.float64)
    write_model(model, out, {"weight": new_weight, "bias": lambda: bias}, {"graphrebase": "1"})
    written = read_model(out)
    assert structure_difference(model, written) == []
    expected = {"weight": new_weight(), "bias": bias, "table": model.tensors["table"].load()}
    for name, array in expected.items():
        np.testing.assert_array_equal(written.tensors[name].load(), array)
    inner = onnx.load(out).graph.node[4].attribute[0].g.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(inner), np.arange(2000))
    onnx.checker.check_model(str(out))


def test_metadata_is_added_or_overwritten_and_nothing_else(save: Save, out: Path) -> None:
    path = save()
    write_model(read_model(path), out, {}, {"task": "ü" * 200, "graphrebase.run": "{}"})
    expected = onnx.load(path)
    helper.set_model_props(expected, {"author": "test", "task": "ü" * 200, "graphrebase.run": "{}"})
    assert onnx.load(out) == expected


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mix_of_storage_forms_is_written(
    data: st.DataObject, save: Save, make_model: Make, tmp_path: Path
) -> None:
    """Varint payloads become raw_data and change the length of everything around them."""
    kinds = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64,
             TensorProto.INT8, TensorProto.INT4, TensorProto.DOUBLE, TensorProto.BOOL]  # fmt: skip
    extra, new = [], {}
    for index in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(kinds))
        count = data.draw(st.sampled_from([0, 1, 3, 50, 200]))
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        values = (np.arange(count) % 2).astype(dtype)
        if data.draw(st.booleans()):
            extra.append(helper.make_tensor(f"t{index}", kind, [count], values))
        else:
            extra.append(numpy_helper.from_array(values, f"t{index}"))
        if data.draw(st.booleans()):
            new[f"t{index}"] = (1 - np.arange(count) % 2).astype(dtype)
    path = save(make_model(tuple(extra)))
    model = read_model(path)
    out = tmp_path / "mixed.onnx"
    write_model(model, out, {k: lambda v=v: v for k, v in new.items()}, {"graphrebase": "x"},
                force=True)  # fmt: skip
    written = read_model(out)
    onnx.checker.check_model(str(out))
    steering = {n for n, a in new.items() if a.dtype.name in ("int64", "bool") and a.size}
    differing = structure_difference(model, written)
    assert {line.split("'")[1] for line in differing} == steering
    for name, ref in model.tensors.items():
        expected = new.get(name, ref.load())
        assert written.tensors[name].load().tobytes() == expected.tobytes()


def test_each_function_is_called_once(save: Save, out: Path) -> None:
    calls: list[str] = []
    sources = {
        "weight": lambda: (calls.append("weight"), new_weight())[1],
        "bias": lambda: (calls.append("bias"), np.zeros(64))[1],
    }
    write_model(read_model(save()), out, sources, {})
    assert sorted(calls) == ["bias", "weight"]


def test_memory_is_one_tensor(save: Save, make_model: Make, out: Path) -> None:
    size = 16 << 20
    big = [numpy_helper.from_array(np.ones(size // 4, np.float32), f"big{i}") for i in range(4)]
    model = read_model(save(make_model(tuple(big))))
    del big
    tracemalloc.start()
    sources = {f"big{i}": lambda: np.zeros(size // 4, np.float32) for i in range(4)}
    write_model(model, out, sources, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.9 * size  # the tensor and chunks of it


@pytest.mark.parametrize("external", LAYOUTS)
@pytest.mark.parametrize("name", ["n.onnx", "other"])
def test_output_beside_the_template_renames_data(external: str, name: str, save: Save) -> None:
    path = save(external=external)
    before = tree(path.parent)
    model = read_model(path)
    out = path.with_name(name)
    write_model(model, out, {"weight": new_weight}, {})
    written = read_model(out)
    assert {k: v for k, v in tree(path.parent).items() if k in before} == before
    assert structure_difference(model, written) == []
    assert (written.tensors["weight"].load() == 2.5).all()
    assert not {file.name for file in written.files} & set(before)
    if external == "one":
        assert list(written.data_files) == [f"{name}.data"]
    if external == "many":
        assert all(key.startswith(f"{out.stem}.") for key in written.data_files)


def test_data_in_sub_folders_keeps_its_place(save: Save, out: Path) -> None:
    path = save(external="one")
    model = onnx.load(path, load_external_data=False)
    (path.parent / "deep" / "er").mkdir(parents=True)
    path.with_name("m.onnx.data").rename(path.parent / "deep" / "er" / "w.bin")
    move_data(model, "./deep//er/w.bin")
    path.write_bytes(model.SerializeToString())
    write_model(read_model(path), out, {}, {})
    assert tree(out.parent) == tree(path.parent)
    write_model(read_model(path), path.with_name("n.onnx"), {}, {})
    assert (path.parent / "n.onnx.data").exists()


def move_data(model: ModelProto, location: str) -> None:
    """Set the location of every external tensor."""
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.g.initializer]
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def test_checksum_of_a_changed_data_file_is_dropped(save: Save, out: Path) -> None:
    path = save(external="one")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[1].external_data.add(key="checksum", value="0" * 40)
    path.write_bytes(model.SerializeToString())
    write_model(read_model(path), out, {}, {})
    assert b"checksum" in out.read_bytes()
    write_model(read_model(path), out, {"weight": new_weight}, {}, force=True)
    assert b"checksum" not in out.read_bytes()


def test_tensors_that_share_bytes_cannot_be_replaced(
    save: Save, make_model: Make, out: Path
) -> None:
    tied = numpy_helper.from_array(np.zeros((64, 64), np.float32), "tied")
    path = save(make_model((tied,)), external="one")
    model = onnx.load(path, load_external_data=False)
    weight, _, other = model.graph.initializer
    del other.external_data[:]
    other.external_data.extend(weight.external_data)
    path.write_bytes(model.SerializeToString())
    for name in ("weight", "tied"):
        with pytest.raises(OutputError, match="share bytes"):
            write_model(read_model(path), out, {name: new_weight}, {})
    write_model(read_model(path), out, {"bias": lambda: np.zeros(64)}, {})


def test_existing_output_needs_force(save: Save, out: Path) -> None:
    model = read_model(save())
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        write_model(model, out, {}, {})
    assert out.read_bytes() == b"old"
    write_model(model, out, {}, {}, force=True)
    assert out.read_bytes() == model.path.read_bytes()


def test_existing_data_file_needs_force(save: Save, out: Path) -> None:
    model = read_model(save(external="one"))
    data = out.with_name("m.onnx.data")
    data.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        write_model(model, out, {}, {})
    assert tree(out.parent) == {"m.onnx.data": b"old"}
    write_model(model, out, {}, {}, force=True)
    assert tree(out.parent) == tree(model.path.parent)


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dotted"])
@pytest.mark.parametrize("victim", ["m.onnx", "m.onnx.data"])
def test_inputs_are_never_written(link: str, victim: str, save: Save, tmp_path: Path) -> None:
    path = save(external="one")
    before = tree(path.parent)
    target = path.with_name(victim)
    out = tmp_path / "elsewhere.onnx"
    if link == "symlink":
        out.symlink_to(target)
    elif link == "hardlink":
        os.link(target, out)
    else:
        out = target if link == "same" else path.parent / ".." / path.parent.name / victim
    with pytest.raises(OutputError, match="one of the input files"):
        write_model(read_model(path), out, {"weight": new_weight}, {}, force=True)
    assert tree(path.parent) == before


def test_protected_files_are_never_written(save: Save, tmp_path: Path) -> None:
    """The data of another input model of the same name makes ours take another name."""
    path = save(external="one")
    other = save(external="one", folder="other")
    before = tree(other.parent)
    protected = read_model(other).files
    with pytest.raises(OutputError, match="input files"):
        write_model(read_model(path), other, {}, {}, force=True, protected=protected)
    write_model(read_model(path), other.with_name("n.onnx"), {}, {}, protected=protected)
    assert {k: v for k, v in tree(other.parent).items() if k in before} == before
    assert (other.parent / "n.onnx.data").exists()


def test_output_named_like_its_data_is_refused(save: Save, out: Path) -> None:
    with pytest.raises(OutputError, match="external data"):
        write_model(read_model(save(external="one")), out.with_name("m.onnx.data"), {}, {})


def test_link_out_of_the_output_folder_is_not_followed(
    save: Save, out: Path, tmp_path: Path
) -> None:
    path = save(external="one")
    model = onnx.load(path, load_external_data=False)
    (path.parent / "sub").mkdir()
    path.with_name("m.onnx.data").rename(path.parent / "sub" / "w.bin")
    move_data(model, "sub/w.bin")
    path.write_bytes(model.SerializeToString())
    (tmp_path / "home").mkdir()
    (out.parent / "sub").symlink_to(tmp_path / "home")
    with pytest.raises(OutputError, match="out of the output folder"):
        write_model(read_model(path), out, {}, {})
    assert not tree(tmp_path / "home")


def test_folder_or_missing_parent_is_refused(save: Save, out: Path) -> None:
    model = read_model(save())
    for target, message in ((out.parent, "not a file"), (out.parent / "no" / "m", "not exist")):
        with pytest.raises(OutputError, match=message):
            write_model(model, target, {}, {}, force=True)


def test_output_follows_the_umask(save: Save, out: Path) -> None:
    old = os.umask(0o027)
    try:
        write_model(read_model(save()), out, {}, {})
    finally:
        os.umask(old)
    assert out.stat().st_mode & 0o777 == 0o640


def test_changed_template_is_refused(save: Save, out: Path) -> None:
    path = save()
    model = read_model(path)
    path.write_bytes(path.read_bytes() + b"\x12\x00")
    with pytest.raises(InputError, match="changed"):
        write_model(model, out, {}, {})


def test_unknown_and_string_tensors_are_refused(save: Save, make_model: Make, out: Path) -> None:
    strings = helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])
    model = read_model(save(make_model((strings,))))
    for name in ("absent", "inner", "s"):
        with pytest.raises(GraphRebaseError, match=name):
            write_model(model, out, {name: new_weight}, {})


class Interrupt(BaseException):
    """Stands for a KeyboardInterrupt."""


def failing_calls(model: Model) -> dict[str, tuple[Callable[[], np.ndarray], type[BaseException]]]:
    def interrupt() -> np.ndarray:
        raise Interrupt

    def bug() -> np.ndarray:
        raise ZeroDivisionError

    return {
        "interrupt": (interrupt, Interrupt),
        "bug": (bug, ZeroDivisionError),
        "overflow": (lambda: np.full((40, 64), 1e300), VerificationError),
        "shape": (lambda: np.zeros((64, 40)), GraphRebaseError),
    }


@pytest.mark.parametrize("failure", ["interrupt", "bug", "overflow", "shape"])
@pytest.mark.parametrize("external", LAYOUTS)
@pytest.mark.parametrize("existing", [False, True])
def test_failure_half_way_leaves_everything_as_it_was(
    failure: str, external: str, existing: bool, save: Save, out: Path
) -> None:
    model = read_model(save(external=external))
    if existing:
        write_model(model, out, {"bias": lambda: np.ones(64)}, {})
    before = tree(out.parent)
    call, error = failing_calls(model)[failure]
    with pytest.raises(error):
        write_model(model, out, {"weight": new_weight, "table": call}, {}, force=True)
    assert tree(out.parent) == before


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize("system_call", ["replace", "fsync", "write", "open", "rename"])
@pytest.mark.parametrize("external", ["none", "one"])
@pytest.mark.parametrize("existing", [False, True])
def test_system_failure_leaves_everything_as_it_was(
    nth: int,
    system_call: str,
    external: str,
    existing: bool,
    save: Save,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever system call fails at whatever time, the folder is as before or complete."""
    model = read_model(save(external=external))
    if existing:
        write_model(model, out, {"bias": lambda: np.ones(64)}, {})
    before = tree(out.parent)
    real, calls = getattr(os, system_call), 0

    def fail(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(os, system_call, fail)
    try:
        write_model(model, out, {"weight": new_weight}, {}, force=True)
    except OutputError as error:
        assert "disk space" in str(error)
        assert tree(out.parent) == before
    else:
        names = {"m.onnx"} if external == "none" else {"m.onnx", "m.onnx.data"}
        assert tree(out.parent).keys() == names
        assert (read_model(out).tensors["weight"].load() == 2.5).all()


def test_new_sub_folders_are_removed_on_failure(save: Save, out: Path) -> None:
    path = save(external="one")
    model = onnx.load(path, load_external_data=False)
    (path.parent / "sub").mkdir()
    path.with_name("m.onnx.data").rename(path.parent / "sub" / "w.bin")
    move_data(model, "sub/w.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphRebaseError):
        write_model(read_model(path), out, {"weight": lambda: np.zeros(3)}, {})
    assert not list(out.parent.iterdir())


def test_files_are_on_disk_before_they_are_named(
    save: Save, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data before model, and every file synced before the first is put in place."""
    model = read_model(save(external="one"))
    events: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(Path(b).name), replace(a, b))[1])
    write_model(model, out, {}, {})
    assert events == ["sync", "sync", "m.onnx.data", "m.onnx", "sync"]
