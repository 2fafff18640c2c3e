"""Parameters and decoders that an exporter merged: ties move together, branches are run."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from planted import edit_weights
from zoo_fixture import zoo_model

from graphrebase.io import read_model
from graphrebase.rebase import Settings, rebase
from graphrebase.structure import find_structure


def trio(entry: str, folder: Path) -> list[Path]:
    """Return A, A_ft and B: the matrices of an export changed twice, its vectors left alone."""
    paths = [zoo_model(entry).path]

    def changed(array: np.ndarray) -> np.ndarray:  # alike in all exports of a model
        rng = np.random.default_rng(zlib.crc32(np.sort(array, axis=None).tobytes()))
        return array + 0.1 * rng.standard_normal(array.shape)

    for name in ("finetuned", "target"):
        path = folder / f"{name}.onnx"
        edit_weights(
            paths[-1],
            path,
            lambda _, a: changed(a) if a.ndim > 1 else a,
        )
        paths.append(path)
    return paths


def test_merged_biases_are_kept_as_in_the_target_and_said(tmp_path: Path) -> None:
    base, finetuned, target = trio("vit-cls-fresh-ts17-eager", tmp_path)
    images = np.random.default_rng(1).standard_normal((24, 3, 32, 32)).astype(np.float32)
    spec = read_model(base).proto.graph.input[0].type.tensor_type.shape.dim
    images = images[:, : spec[1].dim_value, : spec[2].dim_value, : spec[3].dim_value]
    np.savez(tmp_path / "x.npz", pixel_values=images)
    settings = Settings(method="fit", probes=tmp_path / "x.npz", keep_data=tmp_path / "x.npz")
    result = rebase(base, finetuned, target, tmp_path / "out.onnx", settings)
    kept = [e.role for e in result.plan if "as one tensor" in e.reason]
    old, new = (find_structure(read_model(p)) for p in (target, tmp_path / "out.onnx"))
    assert kept
    for role in kept:
        np.testing.assert_array_equal(new.read(role), old.read(role))
    moved = next(e.role for e in result.plan if e.role.endswith("mlp.down.weight"))
    assert np.abs(new.read(moved) - old.read(moved)).max() > 0


def test_a_head_in_one_tensor_with_its_table_moves_with_it(tmp_path: Path) -> None:
    base, finetuned, target = trio("gpt2-dy18-sdpa", tmp_path)
    settings = Settings(method="anchored")
    result = rebase(base, finetuned, target, tmp_path / "out.onnx", settings)
    tied = {e.role: e.action for e in result.plan if e.role.startswith(("embedding.i", "head"))}
    assert tied and set(tied.values()) == {"moved"}


def test_a_merged_decoder_is_fitted_as_the_plain_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input_ids=np.random.default_rng(0).integers(0, 40, (40, 9)))
    settings = Settings(method="fit", probes=tmp_path / "x.npz", keep_data=tmp_path / "x.npz")
    found = []
    for number, entry in enumerate(("llama-cache-ts17-eager", "llama-cache-ts17-eager+merged")):
        folder = tmp_path / str(number)
        folder.mkdir()
        rebase(*trio(entry, folder), folder / "out.onnx", settings)
        made = find_structure(read_model(folder / "out.onnx"))
        b = find_structure(read_model(folder / "target.onnx"))
        found.append({n: (made.read(n), b.read(n)) for n in made.roles})
    for name in set(found[0]) & set(found[1]):
        for plain, merged in zip(found[0][name], found[1][name], strict=True):
            np.testing.assert_allclose(plain, merged, atol=1e-4)
    assert any(np.abs(new - old).max() > 1e-3 for new, old in found[1].values())
