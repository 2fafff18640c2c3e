"""The alignment file: what is saved is loaded, and nothing else is."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from synthetic_pair import Shape, draw_model, plant, spaces_of

from graphrebase.align import Alignment, align, check_models, load, random_alignment, save
from graphrebase.align.file import FORMAT
from graphrebase.errors import InputError, MismatchError, OutputError

HASHES = {"sha256_a": "a" * 64, "sha256_b": "b" * 64}


def sample():
    problem, _ = plant(draw_model(Shape(), 0), 0)
    return align(problem, **HASHES)


def metadata(**changes):
    good = {"format": FORMAT, "schema_version": "1", "method": "m", "options": "{}", "details": ""}
    return {k: v for k, v in {**good, **HASHES, **changes}.items() if v is not None}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "x.safetensors"
    saved = sample()
    save(saved, path)
    loaded = load(path)
    assert replace(loaded, maps={}) == replace(saved, maps={})
    assert set(loaded.maps) == set(saved.maps)
    assert all(np.array_equal(loaded.maps[name], saved.maps[name]) for name in saved.maps)
    assert loaded.maps["residual.0"].dtype == np.int64


def test_same_alignment_same_bytes(tmp_path):
    for name in "xy":
        save(sample(), tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "x"
    path.write_text("mine")
    alignment = random_alignment(spaces_of(Shape()))
    with pytest.raises(OutputError):
        save(alignment, path)
    assert path.read_text() == "mine"
    save(alignment, path, force=True)
    assert load(path).method == "random"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError):
        save(Alignment({}, "x"), tmp_path / "x")
    assert os.listdir(tmp_path) == []
    with pytest.raises(OutputError):
        save(Alignment({}, "x"), tmp_path / "nowhere" / "x")


def test_control_a_foreign_writer_of_the_right_content_is_read(tmp_path):
    save_file({"map/residual": np.arange(3)}, tmp_path / "x", metadata())
    assert load(tmp_path / "x").maps["residual"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "tensors",
    [
        {"map/residual": np.array([0, 0, 1])},
        {"map/residual": np.array([1, 2, 3])},
        {"map/residual": np.array([0, 1, -1])},
        {"map/residual": np.arange(3, dtype=np.int32)},
        {"map/residual": np.eye(3, dtype=np.float32)},
        {"map/residual": np.full((3, 3), np.nan)},
        {"map/residual": np.ones((3, 2))},
        {"map/residual": np.array([[0, 1], [1, 1]])},
        {"map/residual": np.zeros((1, 1, 1), np.int64)},
        {"map/residual": np.zeros((0,), np.int64)},
        {"map/": np.arange(3)},
        {"residual": np.arange(3)},
    ],
)
def test_maps_that_are_no_permutations(tmp_path, tensors):
    save_file(tensors, tmp_path / "x", metadata())
    with pytest.raises(InputError):
        load(tmp_path / "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"format": "pt"},
        {"schema_version": "2"},
        {"schema_version": None},
        {"method": None},
        {"options": "[]"},
        {"options": "{"},
        {"options": '{"a": []}'},
        {"options": "[" * 100_000},
        {"sha256_a": "../../etc/passwd"},
        {"sha256_b": None},
        {"details": "{}"},
        {"details": "1"},
    ],
)
def test_metadata_that_is_not_ours(tmp_path, changes):
    save_file({"map/residual": np.arange(3)}, tmp_path / "x", metadata(**changes))
    with pytest.raises(InputError):
        load(tmp_path / "x")


@pytest.mark.parametrize("name", ["objective", "sweeps", "start", "space_scores"])
def test_details_of_another_type(tmp_path, name):
    save(sample(), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    values = json.loads(header["__metadata__"]["details"])
    values[name] = None
    save_file({"map/a": np.arange(3)}, tmp_path / "y", metadata(details=json.dumps(values)))
    with pytest.raises(InputError):
        load(tmp_path / "y")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04 a zip", (1 << 62).to_bytes(8, "little") + b"{}"],
)
def test_files_of_another_kind(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError):
        load(tmp_path / "x")


def test_a_truncated_file(tmp_path):
    save(sample(), tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    with pytest.raises(InputError):
        load(tmp_path / "x")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError):
        load(tmp_path)


def test_other_models_are_refused():
    alignment = Alignment({}, "x", {}, **HASHES)
    check_models(alignment, **HASHES)
    for changed in HASHES:
        with pytest.raises(MismatchError):
            check_models(alignment, **{**HASHES, changed: "c" * 64})
