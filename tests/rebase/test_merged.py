"""A decoder merged for use with and without a cache: one set of layers, right in both branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_caches import HEADS, save_merged

from graphrebase.io import read_model, write_model
from graphrebase.rebase.basis import leave_one_out, random_basis
from graphrebase.rebase.interface import moved_inputs, moved_outputs
from graphrebase.runtime import Session, equivalent, two_sizes
from graphrebase.structure import find_structure
from graphrebase.verify import permute_model, verify_structure


@pytest.mark.parametrize("inside", [False, True])
def test_every_layer_is_found_once(tmp_path: Path, inside: bool) -> None:
    structure = find_structure(read_model(save_merged(tmp_path / "m.onnx", inside=inside)))
    layers = structure.attention
    assert [(layer.heads, layer.kv_heads) for layer in layers] == [(HEADS, HEADS)] * len(layers)
    # Branches with weights of their own are two different layers.
    assert len(layers) == (2 if inside else 1)
    tensors = [role.view.tensor for role in structure.roles.values()]
    assert len(set(tensors)) == 4 + inside == len({*tensors})


def test_both_values_of_the_flag_are_checked(tmp_path: Path) -> None:
    model = read_model(save_merged(tmp_path / "m.onnx"))
    session = Session(model.path)
    sets = two_sizes(session, find_structure(model).graph, 0)
    assert sorted(bool(inputs["flag"].all()) for inputs in sets) == [False, False, True, True]
    assert len({inputs["x"].shape for inputs in sets}) == 2


@pytest.mark.parametrize("inside", [False, True])
def test_a_merged_decoder_moves_as_a_whole(tmp_path: Path, inside: bool) -> None:
    path = save_merged(tmp_path / "m.onnx", inside=inside)
    result = permute_model(path, tmp_path / "o.onnx", free=("state",))
    assert result["relative_error"] < 1e-5 and result["initializers_changed"] == 4 + inside
    assert result["groups_permuted"]["head"] == 1
    assert set(result["interface"]) == {"a", "b", "c", "d"}
    assert verify_structure(path, tmp_path / "o.onnx")["passed"]


@pytest.mark.parametrize("inside", [False, True])
def test_control_each_weight_left_behind_is_noticed(tmp_path: Path, inside: bool) -> None:
    model = read_model(save_merged(tmp_path / "m.onnx", inside=inside))
    structure = find_structure(model, free=("state",))
    basis = random_basis(structure.symmetry, seed=1)
    reference = Session(model.path)
    sets = two_sizes(reference, structure.graph, 0)
    change = basis.symmetry, basis.permutations
    maps = {"inputs": moved_inputs(*change), "outputs": moved_outputs(*change)}
    for name in basis.replacements():
        write_model(model, tmp_path / "o.onnx", leave_one_out(basis, [name]), {}, force=True)
        error = equivalent(reference, Session(tmp_path / "o.onnx"), sets, **maps).relative
        assert error > 1e-2, name
    assert np.isfinite(error)
