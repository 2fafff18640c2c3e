"""Points of the residual stream: what blocks in parallel read and write."""

from __future__ import annotations

import pytest
from zoo_fixture import zoo_model

from graphrebase.io import read_model
from graphrebase.structure import find_structure
from graphrebase.structure.points import Edge, point_names


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("gpt2-ts17-eager", [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 4)]),
        ("gpt-neox-ts17-eager", [(0, 0, 1), (0, 0, 1), (1, 1, 2), (1, 1, 2)]),
        ("phi-ts14-sdpa", [(0, 0, 1), (0, 0, 1), (1, 1, 2), (1, 1, 2)]),
    ],
)
def test_blocks_in_parallel_share_points(name: str, edges: list[tuple[int, int, int]]) -> None:
    found = find_structure(read_model(zoo_model(name).path), residual="per-point")
    assert list(found.edges) == [Edge(*edge) for edge in edges]
    points = {number for edge in edges for number in edge}
    residual = {name for name in found.spaces if name.startswith("residual.")}
    assert residual == {f"residual.{number}" for number in points}


def test_towers_have_points_of_their_own() -> None:
    edges = [Edge(0, 0, 1), Edge(2, 2, 3)]
    assert [n[0] for n in point_names(edges, [0, 1], "per-point")] == ["residual.0", "residual.2"]
    assert [n[0] for n in point_names(edges, [0, 1], "shared")] == ["residual.0", "residual.1"]
    assert [n[0] for n in point_names(edges, [0, 0], "shared")] == ["residual", "residual"]
