"""Rebase across forms: A, A_ft and B each fused in another way line up by role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from planted import edit_weights, permuted
from structure import fused_models as m
from symmetry.soundness import relative_change, run

from graphrebase.align import Alignment
from graphrebase.align.maps import random_maps
from graphrebase.io import read_model
from graphrebase.rebase import Settings, rebase
from graphrebase.rebase.basis import aligned_basis, write_basis
from graphrebase.structure import find_structure

ENCODERS = [
    ("written out", "Attention", "MultiHeadAttention"),
    ("Attention", "opset 23, packed", "FusedMatMul"),
]
DECODERS = [
    ("GroupQueryAttention", "opset 23", "GroupQueryAttention, packed"),
    ("opset 23", "GroupQueryAttention, packed", "RotaryEmbedding"),
]


def output(path: Path) -> dict[str, np.ndarray]:
    return {"y": next(iter(run(onnx.load(path), m.feed(path, 3, 6)).values()))}


@pytest.mark.parametrize("forms", ENCODERS, ids=" + ".join)
@pytest.mark.parametrize("template", ["finetuned", "target"])
def test_without_noise_the_result_computes_what_the_finetuned_model_does(
    forms: tuple[str, str, str], template: str, tmp_path: Path
) -> None:
    base, tuned, goal = (m.save(tmp_path / f"{i}.onnx", form) for i, form in enumerate(forms))
    finetuned, target, made = (tmp_path / f"{n}.onnx" for n in ("finetuned", "target", "made"))
    edit_weights(tuned, finetuned, lambda _, a: 1.05 * a)
    permuted(goal, target)
    rebase(base, finetuned, target, made, Settings(method="transfusion", template=template))
    assert relative_change(output(finetuned), output(made)) < 1e-4
    naive = Settings(method="naive", template=template)
    rebase(base, finetuned, target, tmp_path / "naive.onnx", naive)
    assert relative_change(output(finetuned), output(tmp_path / "naive.onnx")) > 1e-2


@pytest.mark.parametrize("forms", DECODERS, ids=" + ".join)
@pytest.mark.parametrize("template", ["finetuned", "target"])
def test_a_task_vector_reaches_the_weights_of_another_form(
    forms: tuple[str, str, str], template: str, tmp_path: Path
) -> None:
    base, tuned, target = (m.save(tmp_path / f"{i}.onnx", form) for i, form in enumerate(forms))
    finetuned, made = (tmp_path / f"{name}.onnx" for name in ("finetuned", "made"))
    edit_weights(tuned, finetuned, lambda _, a: 1.05 * a)
    rebase(base, finetuned, target, made, Settings(method="naive", template=template))
    assert relative_change(output(finetuned), output(made)) < 1e-4
    assert relative_change(output(finetuned), output(target)) > 1e-2


@pytest.mark.parametrize("form", [*m.ENCODERS, *m.DECODERS])
def test_a_basis_per_point_gathers_on_fused_skips(form: str, tmp_path: Path) -> None:
    path = m.save(tmp_path / "model.onnx", form)
    structure = find_structure(read_model(path), residual="per-point")
    assert len(structure.skips) == 2 * m.LAYERS
    maps = random_maps(structure.spaces, np.random.default_rng(0), fixed=structure.fixed)
    basis = aligned_basis(structure, Alignment(maps, "random"))
    assert len(basis.gathers) == 2 * m.LAYERS
    write_basis(structure.model, basis, tmp_path / "moved.onnx", {})
    assert relative_change(output(path), output(tmp_path / "moved.onnx")) < 1e-4
    none = type(basis)(basis.symmetry, basis.permutations)
    write_basis(structure.model, none, tmp_path / "control.onnx", {})
    assert relative_change(output(path), output(tmp_path / "control.onnx")) > 1e-2


def moved(_: str, values: np.ndarray) -> np.ndarray:
    """Change every number by itself, so that the layout of a weight does not matter."""
    return values + 0.1 * values * np.cos(40 * values)


@pytest.mark.parametrize(
    ("plain", "form"),
    [
        ("written out", "Attention"),
        ("written out", "MultiHeadAttention"),
        ("opset 23", "GroupQueryAttention"),
    ],
)
def test_fit_does_not_see_what_is_fused(plain: str, form: str, tmp_path: Path) -> None:
    """Of inputs that count tokens, which one form has, nothing need be given."""
    ids = np.random.default_rng(0).integers(0, m.VOCABULARY, (48, 8)).astype(np.int32)
    np.savez(tmp_path / "probes.npz", ids=ids)
    probes = tmp_path / "probes.npz"
    settings = Settings(method="fit", probes=probes, keep_data=probes)
    made = []
    for number, kind in enumerate((plain, form)):
        base, tuned, target, out = (tmp_path / f"{number}.{i}.onnx" for i in range(4))
        m.save(base, kind)
        edit_weights(base, tuned, moved)
        edit_weights(tuned, target, moved)
        rebase(base, tuned, target, out, settings)
        made.append(find_structure(read_model(out)))
        assert relative_change(output(target), output(out)) > 1e-3
    for name, role in made[0].roles.items():
        if role.kind != "other":
            np.testing.assert_allclose(
                made[0].read(name), made[1].read(name), atol=1e-3, err_msg=name
            )
