"""A change of basis computes the same; leaving out a member, or a Gather, is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import permuted
from zoo_fixture import zoo_model

from graphrebase.align import Alignment, save
from graphrebase.align.maps import random_maps
from graphrebase.errors import MismatchError, OutputError
from graphrebase.io import read_model, structure_difference, write_model
from graphrebase.rebase import Settings, align_models
from graphrebase.rebase.basis import Basis, aligned_basis, leave_one_out, write_basis
from graphrebase.structure import find_structure
from graphrebase.verify import permute_model, verify_function

MODELS = ["vit-cls-ts17-eager", "gpt2-ts14-sdpa", "llama-ts17-eager", "bert-cls-dy18-sdpa"]


def random_alignment(path: Path, residual: str) -> tuple[Basis, Alignment]:
    structure = find_structure(read_model(path), residual=residual)
    maps = random_maps(structure.spaces, np.random.default_rng(0), fixed=structure.fixed)
    alignment = Alignment(maps, "random", {"residual": residual})
    return aligned_basis(structure, alignment), alignment


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("residual", ["shared", "per-point"])
def test_any_element_of_the_spaces_keeps_the_function(
    name: str, residual: str, tmp_path: Path
) -> None:
    path = zoo_model(name).path
    basis, _ = random_alignment(path, residual)
    output = tmp_path / "out.onnx"
    write_basis(read_model(path), basis, output, {})
    assert len(basis.gathers) == (4 if residual == "per-point" else 0)
    assert verify_function(path, output)["passed"]
    if residual == "per-point":
        write_basis(read_model(path), replace(basis, gathers=()), tmp_path / "bare.onnx", {})
        assert not verify_function(path, tmp_path / "bare.onnx")["passed"]
    else:
        assert structure_difference(read_model(path), read_model(output)) == []


@pytest.mark.parametrize("name", MODELS)
def test_one_member_left_out_is_noticed(name: str, tmp_path: Path) -> None:
    path = zoo_model(name).path
    model = read_model(path)
    basis, _ = random_alignment(path, "shared")
    structure = find_structure(model)
    roles = [r for r in structure.roles.values() if any(r.axes)]
    # Softmax hides a permuted key bias; a gain that is one everywhere has no order.
    hidden = {r.view.tensor for r in roles if r.name.endswith("k.bias")}
    left = [t for t in dict.fromkeys(r.view.tensor for r in roles) if t not in hidden]
    for number, tensor in enumerate(left):
        output = tmp_path / f"{number}.onnx"
        write_model(model, output, leave_one_out(basis, [tensor]), {})
        assert not verify_function(path, output)["passed"], tensor


def test_alignment_file_leads_from_a_to_a_permuted(tmp_path: Path) -> None:
    base = zoo_model("gpt2-ts17-eager").path
    target, stored = tmp_path / "b.onnx", tmp_path / "a.safetensors"
    permuted(base, target)
    found, _ = align_models(base, target, Settings(method="transfusion"))
    save(found, stored)
    result = permute_model(base, tmp_path / "out.onnx", alignment=stored)
    assert result["relative_error"] < 1e-5
    assert result["groups_permuted"] == {
        "residual": 5, "head": 2, "head_qk": 2, "head_vo": 2, "mlp": 2,
    }  # fmt: skip
    one, other = (find_structure(read_model(p)) for p in (target, tmp_path / "out.onnx"))
    for name in one.roles:
        np.testing.assert_array_equal(one.read(name), other.read(name))
    with pytest.raises(MismatchError):
        permute_model(target, tmp_path / "wrong.onnx", alignment=stored)
    assert not (tmp_path / "wrong.onnx").exists()


def test_freed_output_comes_with_its_permutation(tmp_path: Path) -> None:
    path = zoo_model("vit-ts17-eager").path
    kept = permute_model(path, tmp_path / "kept.onnx")
    assert kept["interface"] == {} and "residual" not in kept["groups_permuted"]
    freed = permute_model(path, tmp_path / "freed.onnx", free=("latent",))
    assert freed["groups_permuted"]["residual"] == 1
    (entry,) = freed["interface"]["last_hidden_state"]
    assert entry["axis"] == 2 and sorted(entry["permutation"]) == list(range(32))
    assert not verify_function(path, tmp_path / "freed.onnx")["passed"]


def test_output_is_never_an_input(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo_model("gpt2-ts17-eager").path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(OutputError):
        permute_model(path, path, force=True)
    assert path.read_bytes() == before
