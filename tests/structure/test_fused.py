"""Fused or not, a model has the same roles, spaces and function, and every group is sound."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from structure import fused_models as m
from symmetry.soundness import relative_change, run

from graphrebase.io import read_model, write_model
from graphrebase.rebase.basis import leave_one_out, random_basis
from graphrebase.structure import Structure, find_structure, summary
from graphrebase.verify import permute_model

SIZES = ((3, 6), (1, 9))
FORMS = [*m.ENCODERS, *m.DECODERS]
#: Softmax does not see the same number added to every key.
UNSEEN = {f"layer{layer}.k.b" for layer in range(m.LAYERS)}


def read(folder: Path, form: str) -> Structure:
    return find_structure(read_model(m.save(folder / f"{form}.onnx", form)))


def outputs(path: Path) -> dict[str, np.ndarray]:
    results = {}
    for size in SIZES:
        (value,) = run(onnx.load(path), m.feed(path, *size)).values()
        results[str(size)] = value
    return results


@pytest.mark.parametrize("family", [m.ENCODERS, m.DECODERS])
def test_all_forms_have_the_same_roles_and_function(family: dict, tmp_path: Path) -> None:
    first, *others = family
    reference = read(tmp_path, first)
    wanted = outputs(reference.model.path)
    for form in others:
        found = read(tmp_path, form)
        assert relative_change(wanted, outputs(found.model.path)) < 1e-4, form
        named = {n: r for n, r in found.roles.items() if r.kind != "other"}
        assert named.keys() == {n for n, r in reference.roles.items() if r.kind != "other"}, form
        for name, role in named.items():
            np.testing.assert_array_equal(found.read(name), reference.read(name), err_msg=name)
            assert role.axes == reference.roles[name].axes, (form, name)
        assert found.spaces == reference.spaces, form


@pytest.mark.parametrize("form", FORMS)
def test_blocks_are_named_with_their_sizes(form: str, tmp_path: Path) -> None:
    found = summary(read(tmp_path, form))
    attention = [b for b in found["blocks"] if b["kind"] == "attention"]
    mlps = [b for b in found["blocks"] if b["kind"] == "mlp"]
    decoder = form in m.DECODERS
    sizes = (m.HEADS, m.KV, m.D, m.H) if decoder else (m.HEADS, m.HEADS, m.ENCODER_D, m.H)
    assert [(b["heads"], b["kv_heads"], b["head_dim"], b["hidden"]) for b in attention] == [
        sizes
    ] * m.LAYERS
    assert [(b["width"], b["gated"]) for b in mlps] == [(m.MLP, decoder)] * m.LAYERS
    assert all(block["residual"] for block in found["blocks"])
    assert found["near_misses"] == [] and found["coverage"] > 0.97
    kinds = Counter(group["kind"] for group in found["groups"])
    inner = {"head_member": m.LAYERS} if decoder else {"head_qk": m.LAYERS}
    assert kinds == {
        "residual": 1, "head": m.LAYERS, "head_vo": m.LAYERS, "mlp": m.LAYERS, **inner
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_permuted_models_compute_the_same(form: str, tmp_path: Path) -> None:
    structure = read(tmp_path, form)
    basis = random_basis(structure.symmetry, seed=1)
    wanted = outputs(structure.model.path)

    def change(left_out: list[str]) -> float:
        moved = leave_one_out(basis, left_out)
        write_model(structure.model, tmp_path / "moved.onnx", moved, {}, force=True)
        return relative_change(wanted, outputs(tmp_path / "moved.onnx"))

    assert change([]) < 1e-4
    for tensor in set(basis.replacements()) - UNSEEN:
        assert change([tensor]) > 1e-3, tensor


@pytest.mark.parametrize("form", m.CACHED)
def test_caches_of_fused_attention_move_as_state(form: str, tmp_path: Path) -> None:
    path = m.save(tmp_path / "model.onnx", form)
    free = permute_model(path, tmp_path / "free.onnx", free=("state",))
    assert free["relative_error"] < 1e-4
    assert free["groups_permuted"]["head"] == free["groups_permuted"]["head_vo"] == m.LAYERS
    kept = permute_model(path, tmp_path / "kept.onnx")
    assert kept["relative_error"] < 1e-4 and "head" not in kept["groups_permuted"]
    found = summary(find_structure(read_model(path), free=()))
    assert any("past." in item["reason"] for item in found["frozen"])
