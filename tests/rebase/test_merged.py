"""Parameters that an exporter stored as one: tied tables move together, torn vectors stay B's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from planted import edit_weights
from zoo_fixture import zoo_model

from graphrebase.io import read_model
from graphrebase.rebase import Settings, rebase
from graphrebase.structure import find_structure


def trio(entry: str, folder: Path) -> list[Path]:
    """Return A, A_ft and B: the matrices of an export changed twice, its vectors left alone."""
    rng = np.random.default_rng(0)
    paths = [zoo_model(entry).path]
    for name in ("finetuned", "target"):
        path = folder / f"{name}.onnx"
        edit_weights(
            paths[0],
            path,
            lambda _, a: a + 0.1 * rng.standard_normal(a.shape) if a.ndim > 1 else a,
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
