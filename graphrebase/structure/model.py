"""The structure of one model: blocks, roles and spaces, from the graph to what methods align."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from graphrebase.align import Space
from graphrebase.errors import UsageError
from graphrebase.graph import Graph
from graphrebase.graph.dequantized import is_quantized
from graphrebase.graph.pattern import Match, NearMiss
from graphrebase.io import Model
from graphrebase.structure.blocks import Attention
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.naming import collect_roles, norm_stems
from graphrebase.structure.parts import Parts, find_parts
from graphrebase.structure.points import Edge, point_names
from graphrebase.structure.residual import Residual
from graphrebase.structure.roles import Role
from graphrebase.structure.spaces import SpaceTable, residual_space
from graphrebase.symmetry import FREE_KINDS, Symmetry, find_symmetry
from graphrebase.symmetry.axes import Axis

RESIDUAL_MODES = ("per-point", "shared")


@dataclass(frozen=True, slots=True)
class Skip:
    """A skip edge of the residual stream, where a per-point alignment changes the basis.

    Attributes:
        node: an output of the node that adds, as the file has it (fused or not).
        position: its input that passes by.
        before, after: spaces on both sides.
    """

    node: str
    position: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Structure:
    """What graphrebase understands of a model.

    Attributes:
        model: the file.
        graph: its view, along one branch of every If.
        float_graph: the float graph that a quantised one stands for, else ``graph`` itself.
        symmetry: groups with every residual connection intact: what the graph itself allows.
        blocks: attention layers and MLPs in the order of the residual stream.
        norms: normalisations in topological order.
        norm_stems: what the roles of each are called, without gain and bias.
        near_misses: idioms that almost fitted.
        roles: canonical arrays by name, in topological order.
        spaces: index spaces of the roles.
        leaves: the free axes of ``space_symmetry`` behind every space.
        partial: name and kind of free axes that are a part of an axis, and no space of their own.
        fixed: head spaces that must keep their order.
        space_symmetry: the algebra the spaces come from (skips cut for ``per-point``).
        skips: skip edges, empty for ``shared``.
        towers: number of the residual stream of every block.
        edges: points of the stream that every block reads and writes.
    """

    model: Model
    graph: Graph
    float_graph: Graph
    symmetry: Symmetry
    blocks: tuple[Attention | Mlp, ...]
    norms: tuple[Match, ...]
    norm_stems: tuple[str, ...]
    near_misses: tuple[NearMiss, ...]
    roles: Mapping[str, Role]
    spaces: Mapping[str, Space]
    leaves: Mapping[str, tuple[Axis, ...]]
    partial: Mapping[Axis, tuple[str, str]]
    fixed: frozenset[str]
    space_symmetry: Symmetry
    skips: tuple[Skip, ...]
    towers: tuple[int, ...]
    edges: tuple[Edge, ...]

    @property
    def attention(self) -> list[Attention]:
        """Return the attention layers."""
        return [b for b in self.blocks if isinstance(b, Attention)]

    @property
    def quantized(self) -> bool:
        """Tell whether the model computes with quantised numbers."""
        return is_quantized(self.graph)

    @property
    def weights(self) -> int:
        """Return the number of weights of all roles."""
        return sum(math.prod(role.view.shape) for role in self.roles.values())

    def read(self, role: str) -> np.ndarray:
        """Return the canonical array of a role."""
        view = self.roles[role].view
        return view.read(self.model.tensors[view.tensor].load())


def find_structure(
    model: Model, *, residual: str = "shared", free: Iterable[str] = FREE_KINDS
) -> Structure:
    """Return blocks, roles and spaces of a model.

    Args:
        model: the model, without its weights.
        residual: ``shared`` (one permutation for a residual stream) or ``per-point``.
        free: interface axes that may move (see ``find_symmetry``): all of them, since a result
            lives in another basis as a whole.

    Raises:
        UsageError: unknown residual mode.
    """
    if residual not in RESIDUAL_MODES:
        raise UsageError(f"unknown residual mode '{residual}'", hint="use per-point or shared")
    ways = find_parts(model)
    parts = ways[0]
    free = tuple(free)
    intact = find_symmetry(parts.whole, parts.shapes, free=free)
    cut = intact
    if residual == "per-point":
        edges = {
            (b.residual.node.index, b.residual.skip)
            for way in ways
            for b in way.blocks
            if b.residual and b.residual.node.stored(b.residual.skip)
        }
        cut = find_symmetry(parts.whole, parts.shapes, free=free, cuts=edges, latent=intact.latent)
    table = SpaceTable(cut)
    skips = [skip for way in ways for skip in _residual_spaces(way, table, residual)]
    found = collect_roles(parts, table)
    return Structure(
        model=model,
        graph=parts.source,
        float_graph=parts.graph,
        symmetry=intact,
        blocks=parts.blocks,
        norms=parts.norms,
        norm_stems=norm_stems(parts),
        near_misses=parts.near_misses,
        roles={role.name: role for role in sorted(found, key=lambda r: r.order)},
        spaces=table.spaces,
        leaves=table.leaves,
        partial=table.partial,
        fixed=frozenset(table.fixed),
        space_symmetry=cut,
        skips=tuple(skips) if residual == "per-point" else (),
        towers=parts.towers,
        edges=parts.edges,
    )


def _residual_spaces(parts: Parts, table: SpaceTable, residual: str) -> list[Skip]:
    """Name the points of every residual stream; blocks in parallel share an Add and its skip."""
    skips: list[Skip] = []
    joined: set[int] = set()
    named = point_names(parts.edges, parts.towers, residual)
    for block, (_, passed, written) in zip(parts.blocks, named, strict=True):
        if block.residual is not None and block.residual.node.index not in joined:
            joined.add(block.residual.node.index)
            before, after = residual_space(table, block.residual, passed, written)
            skips.extend(_skip(block.residual, before, after))
    return skips


def _skip(residual: Residual, before: str | None, after: str | None) -> Iterable[Skip]:
    place = residual.node.stored(residual.skip)
    if place is not None:
        node, position = place
        yield Skip(next(filter(None, node.outputs)), position, before, after)
