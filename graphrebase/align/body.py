"""The body of a transformer as orthogonal methods see it: linear maps, the norms between, anchors.

Plain facts, derived from a graph elsewhere. Every weight is in its canonical shape with a head
axis (also for one head): q (kv, g, d, D), k and v (kv, d, D), o (D, kv, g, d), the member axis g
only where the model has it; up and gate (M, D), down (D, M); a head (C, D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphrebase.align.problem import Axes, Space

FloatArray = NDArray[np.float64]
Read = Callable[[str], FloatArray | None]
"""Reads a role of one model as float64; None where the model does not have it."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm: role names of gain and bias, and whether it subtracts the mean."""

    gain: str | None
    bias: str | None
    centred: bool


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map between two spaces.

    Attributes:
        stem: role name without ``.weight``.
        axes: space per axis of the weight.
        dual: axes that transform by T^-T: the input side, and the inner axis of keys.
        outputs: number of leading axes that are the output.
        norm: the norm whose output it reads.
        scale: role of a vector its output is multiplied by (LayerScale).
        carried: role of a norm's bias that reaches the same sum along the skip (post-norm).
        centred: it writes to a stream whose mean no one reads.
    """

    stem: str
    axes: Axes
    dual: frozenset[int]
    outputs: int
    norm: Norm | None = None
    scale: str | None = None
    carried: str | None = None
    centred: bool = False

    @property
    def weight(self) -> str:
        """Role of the weight."""
        return f"{self.stem}.weight"

    @property
    def bias(self) -> str:
        """Role of the bias, which a model may lack."""
        return f"{self.stem}.bias"


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """Attention from one residual point to the next.

    Attributes:
        pairs: positions inside a head that rotate together (rotary embedding).
        fixed: its heads must keep their order.
    """

    name: str
    before: str
    after: str
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    pairs: tuple[tuple[int, int], ...]
    fixed: bool

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its four maps."""
        return (self.q, self.k, self.v, self.o)

    @property
    def writer(self) -> Linear:
        """The map that writes to the stream."""
        return self.o


@dataclass(frozen=True, slots=True)
class MlpLayer:
    """An MLP from one residual point to the next; ``gate`` is None where it is plain."""

    name: str
    before: str
    after: str
    up: Linear
    gate: Linear | None
    down: Linear

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its two or three maps."""
        return (self.up, self.down) if self.gate is None else (self.up, self.gate, self.down)

    @property
    def writer(self) -> Linear:
        """The map that writes to the stream."""
        return self.down

    @property
    def space(self) -> str:
        """Space of its hidden units."""
        return f"{self.name}.mlp"


Layer = AttentionLayer | MlpLayer


@dataclass(frozen=True, slots=True)
class Inputs:
    """Roles at the input side whose rows mean the same in A and B.

    Attributes:
        tables: (V, D) embeddings, of tokens, positions or types.
        filters: (D, P) linear maps from anchored inputs (pixels of a patch).
        biases: their biases (D,).
        tokens: learned tokens (D,) put before the others.
    """

    tables: tuple[str, ...]
    filters: tuple[str, ...]
    biases: tuple[str, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tower:
    """One residual stream.

    Attributes:
        points: its residual spaces in order (one, if they are shared).
        layers: attention layers and MLPs in order.
        heads: linear maps that read the last point.
        centred: all its norms subtract the mean.
    """

    points: tuple[str, ...]
    layers: tuple[AttentionLayer | MlpLayer, ...]
    inputs: Inputs
    heads: tuple[Linear, ...]
    centred: bool

    def solved(self, *, attention: bool) -> list[Layer]:
        """Return the layers whose writers a fit solves: MLPs, and attention where it is asked for.

        Attention beside an MLP, which writes to the same sum, is left to the MLP.
        """
        sums = {x.after for x in self.layers if isinstance(x, MlpLayer)}
        return [
            x for x in self.layers if isinstance(x, MlpLayer) or (attention and x.after not in sums)
        ]

    def reads_ahead(self, layer: Layer) -> bool:
        """Return whether tokens still look at one another after a layer."""
        later = self.layers[self.layers.index(layer) + 1 :]
        return any(isinstance(x, AttentionLayer) for x in later)


@dataclass(frozen=True, slots=True)
class Body:
    """All streams of a model, and the spaces of their maps.

    Attributes:
        hidden: for every space inside a head of several layers, the roles (C, n) that read it.
        widths: size of A's stream at every point, where the body is of a B of another size.
    """

    spaces: Mapping[str, Space]
    towers: tuple[Tower, ...]
    hidden: Mapping[str, tuple[str, ...]]
    widths: Mapping[str, int] = field(default_factory=dict)

    @property
    def linears(self) -> dict[str, Linear]:
        """Every linear map by the stem of its roles."""
        found = [x for t in self.towers for layer in t.layers for x in layer.linears]
        return {x.stem: x for x in (*found, *(h for t in self.towers for h in t.heads))}

    def width(self, space: str) -> int:
        """Return the size of a space."""
        return self.spaces[space].size

    def map_shape(self, point: str) -> tuple[int, int]:
        """Return the shape (D_B, D_A) of the map of a residual point."""
        return self.width(point), self.widths.get(point, self.width(point))
