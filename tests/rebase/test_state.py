"""A KV cache keeps its basis unless it is freed; then past and present change it together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_caches import DIM, HEADS, save_decoder, save_merged

from graphrebase.graph import build_graph, infer_shapes
from graphrebase.graph.cache import find_cache
from graphrebase.io import read_model
from graphrebase.rebase.basis import random_basis, write_basis
from graphrebase.rebase.interface import moved_inputs, moved_outputs
from graphrebase.runtime import Session, equivalent, two_sizes
from graphrebase.structure import find_structure
from graphrebase.verify import permute_model


@pytest.mark.parametrize(
    ("options", "pairs", "outputs"),
    [
        ({}, {("a", "c"), ("b", "d")}, {"c", "d"}),
        ({"shows": False}, set(), set()),
        ({"grows": False, "shows": False}, set(), set()),
    ],
)
def test_a_cache_is_found_by_what_attention_does_with_it(
    tmp_path: Path, options: dict[str, bool], pairs: set[tuple[str, str]], outputs: set[str]
) -> None:
    graph = build_graph(read_model(save_decoder(tmp_path / "m.onnx", **options)))
    cache = find_cache(graph, infer_shapes(graph))
    assert cache.inputs == {"a", "b"}  # and not x, which weights read
    assert set(cache.pairs) == pairs and cache.outputs == outputs


def test_a_cache_stays_as_it_is_by_default(tmp_path: Path) -> None:
    path = save_decoder(tmp_path / "m.onnx")
    result = permute_model(path, tmp_path / "o.onnx")
    assert result["interface"] == {} and "head" not in result["groups_permuted"]


@pytest.mark.parametrize("grows", [True, False])
def test_a_freed_cache_moves_with_the_weights(tmp_path: Path, grows: bool) -> None:
    path = save_decoder(tmp_path / "m.onnx", grows=grows)
    result = permute_model(path, tmp_path / "o.onnx", free=("state",))
    moved = result["groups_permuted"]
    assert (moved["head"], moved["head_vo"]) == (1, 1)
    assert result["relative_error"] < 1e-5
    for past, present in (("a", "c"), ("b", "d")):
        heads, inner = result["interface"][past]
        assert result["interface"][present] == [heads, inner]
        assert heads["axis"] == 1 and sorted(heads["permutation"]) == list(range(HEADS))
        assert (inner["axis"], inner["over"], len(inner["permutation"])) == (3, 1, HEADS)
        assert all(sorted(p) == list(range(DIM)) for p in inner["permutation"])


def test_sizes_that_are_all_named_apart_are_put_together(tmp_path: Path) -> None:
    path = save_decoder(tmp_path / "m.onnx")
    model = onnx.load(path)
    for number, value in enumerate((*model.graph.input, *model.graph.output)):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = f"unk_{number}_{axis}"
    onnx.save(model, path)
    result = permute_model(path, tmp_path / "o.onnx", free=("state",))
    assert (result["groups_permuted"]["head"], result["groups_permuted"]["head_vo"]) == (1, 1)


def test_what_is_printed_is_what_was_done(tmp_path: Path) -> None:
    model = read_model(save_decoder(tmp_path / "m.onnx"))
    basis = random_basis(find_structure(model, free=("state",)).symmetry, seed=3)
    result = permute_model(model.path, tmp_path / "o.onnx", free=("state",), seed=3)
    relabel = moved_inputs(basis.symmetry, basis.permutations)["a"]
    old = np.random.default_rng(0).standard_normal((2, HEADS, 5, DIM))
    heads, inner = result["interface"]["a"]
    new = np.take(old, heads["permutation"], heads["axis"])
    for i, order in enumerate(inner["permutation"]):
        new[:, i] = new[:, i][..., order]
    np.testing.assert_array_equal(relabel(old), new)


def test_control_a_cache_in_the_old_basis_is_noticed(tmp_path: Path) -> None:
    model = read_model(save_decoder(tmp_path / "m.onnx"))
    structure = find_structure(model, free=("state",))
    basis = random_basis(structure.symmetry, seed=1)
    write_basis(model, basis, tmp_path / "o.onnx", {})
    reference, other = Session(model.path), Session(tmp_path / "o.onnx")
    sets = two_sizes(reference, structure.graph, 0)
    change = basis.symmetry, basis.permutations
    inputs, outputs = moved_inputs(*change), moved_outputs(*change)
    assert equivalent(reference, other, sets, inputs=inputs, outputs=outputs).relative < 1e-5
    assert equivalent(reference, other, sets, outputs=outputs).relative > 1e-2
    assert equivalent(reference, other, sets, inputs=inputs).relative > 1e-2


@pytest.mark.parametrize("inside", [False, True])
def test_both_branches_of_a_merged_decoder_move_together(tmp_path: Path, inside: bool) -> None:
    """With a cache and without; weights stored in the branches are written there."""
    path = save_merged(tmp_path / "m.onnx", inside=inside)
    result = permute_model(path, tmp_path / "o.onnx", free=("state",))
    moved = result["groups_permuted"]
    assert (moved["head"], moved["head_vo"]) == (1, 1) and result["relative_error"] < 1e-5
    assert set(result["interface"]) == {"a", "b", "c", "d"}
