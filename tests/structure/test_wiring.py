"""Wiring: which norm feeds which map, and which channels rotate together, in every export."""

from __future__ import annotations

import pytest
from zoo_fixture import zoo_model

from graphrebase.graph import infer_shapes
from graphrebase.io import read_model
from graphrebase.structure import find_structure
from graphrebase.structure.wiring import norm_facts, origin, rotary_pairs

EXPORTS = ["ts14-eager", "ts17-sdpa", "dy18-eager", "dy23-sdpa"]


def read(name: str):
    return find_structure(read_model(zoo_model(name).path))


def norm_of(structure, role: str):
    return origin(structure.graph, norm_facts(structure), structure.roles[role].reads).norm


@pytest.mark.parametrize("export", EXPORTS)
def test_every_reader_of_the_stream_knows_its_norm(export: str) -> None:
    structure = read(f"vit-cls-{export}")
    for block in (0, 1):
        q, up = (
            norm_of(structure, f"block.{block}.{part}.weight") for part in ("attention.q", "mlp.up")
        )
        assert (q.gain, up.gain) == (f"norm.{2 * block}.gain", f"norm.{2 * block + 1}.gain")
        assert q.centred and q.bias is not None
        assert norm_of(structure, f"block.{block}.mlp.down.weight") is None
    assert norm_of(structure, "head.pooled.0.weight").gain == "norm.4.gain"


@pytest.mark.parametrize("export", EXPORTS)
def test_llama_rotates_halves_and_does_not_centre(export: str) -> None:
    structure = read(f"llama-{export}")
    shapes = infer_shapes(structure.graph)
    for layer in structure.attention:
        assert rotary_pairs(structure, shapes, layer) == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert not norm_of(structure, "block.0.attention.q.weight").centred


@pytest.mark.parametrize("family", ["gpt2", "vit-cls"])
def test_control_nothing_rotates_without_rotary_embedding(family: str) -> None:
    structure = read(f"{family}-ts17-eager")
    shapes = infer_shapes(structure.graph)
    assert all(rotary_pairs(structure, shapes, x) == () for x in structure.attention)
