"""Which values of a model stand for the points of a body, and what its layers read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphrebase.align.body import Body, FloatArray
from graphrebase.errors import MismatchError
from graphrebase.rebase.ends import find_streams
from graphrebase.structure import Mlp, Structure
from graphrebase.structure.linear import Linear
from graphrebase.structure.residual import Residual
from graphrebase.structure.wiring import norm_facts, origin


@dataclass(frozen=True, slots=True)
class Place:
    """Where a linear map stands that writes to a stream.

    Attributes:
        value: what it reads.
        channels: axes of that value which number its channels.
        columns: its channels in the order of its role; None for all of them as they come.
        after: the stream after it.
    """

    value: str
    channels: tuple[int, ...]
    columns: np.ndarray | None
    after: str

    @classmethod
    def of(
        cls, linear: Linear, residual: Residual | None, columns: np.ndarray | None = None
    ) -> Place:
        """Return the place of a map before a residual connection."""
        after = residual.node.outputs[0] if residual else ""
        return cls(linear.input, linear.reads, columns, after)

    def rows(self, array: np.ndarray) -> FloatArray:
        """Return what the map reads, (tokens, channels), in the order of its role."""
        last = range(-len(self.channels), 0)
        moved = np.moveaxis(array, self.channels, last)
        width = math.prod(moved.shape[moved.ndim - len(self.channels) :])
        rows = np.asarray(moved.reshape(-1, width), np.float64)
        return rows if self.columns is None else rows[:, self.columns]


def place(body: Body, structure: Structure) -> dict[str, dict[str, float]]:
    """Return the values of a model, and their shares, that stand for every point of a body.

    The points of a stream are spread evenly over depth: point q of n belongs to place q m / n of a
    model with m, which lies between two of its points unless m = n.
    """
    found = {}
    for tower, values in zip(body.towers, _stream_values(structure), strict=True):
        places = np.arange(len(tower.points)) * (len(values) - 1) / (len(tower.points) - 1)
        for point, at in zip(tower.points, places.tolist(), strict=True):
            low, share = int(at + 1e-9), at - int(at + 1e-9)
            parts = {values[low]: 1.0 - share}
            if share > 1e-9:
                parts[values[low + 1]] = share
            found[point] = parts
    return found


def _stream_values(structure: Structure) -> list[list[str]]:
    """Return the values of every residual point; before a norm, where norms are in the stream."""
    inputs = {match.parts["output"]: match.parts["input"] for match in structure.norms}
    found: list[list[str]] = []
    for stream in find_streams(structure):
        values: list[str] = []
        for block in stream.blocks:
            if block.residual is None:
                raise MismatchError("a block has no residual connection")
            if not values:
                skip = block.residual.node.inputs[block.residual.skip]
                values.append(inputs.get(skip, skip))
            values.append(block.residual.node.outputs[0])
        found.append(list(dict.fromkeys(values)))  # blocks in parallel share one
    return found


def layer_places(structure: Structure) -> dict[str, Place]:
    """Return where the last map of every layer stands, by the stem of its roles."""
    found = {}
    mlps = [b for b in structure.blocks if isinstance(b, Mlp)]
    for number, layer in enumerate(structure.attention):
        order = np.argsort(layer.kv_of, kind="stable")
        columns = layer.output.index[order].reshape(-1)
        stem = f"block.{number}.attention.o"
        found[stem] = Place.of(layer.output.linear, layer.residual, columns)
    for number, block in enumerate(mlps):
        found[f"block.{number}.mlp.down"] = Place.of(block.down, block.residual)
    return found


def head_token(structure: Structure) -> int | None:
    """Return the token that a pooled head reads, None where there is none or it is not fixed."""
    norms = norm_facts(structure)
    for name, role in structure.roles.items():
        if role.kind == "head" and role.reads:
            found = origin(structure.graph, norms, role.reads)
            if found.token is not None:
                return found.token
            if not name.startswith("head.pooled"):
                return None
    return None
