"""The structure that a family has by its architecture: what a correct analysis finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any


@dataclass(frozen=True, slots=True)
class Tower:
    """One stack of transformer blocks.

    Attributes:
        layers, heads, kv_heads, head_dim, hidden: sizes of its attention blocks; `heads` 0: none.
        mlp: width of its MLP blocks, 0 if it has none.
        gated: the MLP multiplies two projections.
        rotary: dimensions of a head's queries and keys that rotary positions tie to frequencies;
            what passes by unturned stays free.
        stream: its residual stream is free. False where it shares the stream of another tower, or
            something fixes it (then a note says what).
        latent: the stream is a graph output: its permutation is visible outside and free only
            when latent outputs may change basis.
        tied_heads: something all layers share (a table of position biases, the slopes of ALiBi)
            has one entry per head: one order of heads for the whole stack.
        shared: all layers are one set of weights, and have one set of groups.
        experts: number of experts of every MLP, 0 if it is dense.
    """

    name: str
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 8
    hidden: int = 32
    mlp: int = 80
    gated: bool = False
    rotary: int = 0
    stream: bool = True
    latent: bool = False
    tied_heads: bool = False
    shared: bool = False
    experts: int = 0

    @property
    def groups(self) -> dict[str, int]:
        """Number of symmetry groups by kind; a latent stream is not counted as free."""
        sets = 1 if self.shared else self.layers
        attention = sets if self.heads else 0
        return {
            "residual": int(self.stream and not self.latent),
            "head": (min(attention, 1) if self.tied_heads else attention)
            if self.kv_heads > 1
            else 0,
            "head_member": attention if self.kv_heads < self.heads else 0,
            "head_qk": attention if self.rotary < self.head_dim else 0,
            "head_vo": attention,
            "mlp": sets if self.mlp else 0,
            "expert": sets if self.experts else 0,
        }


KINDS = ("residual", "head", "head_member", "head_qk", "head_vo", "mlp", "expert")


@dataclass(frozen=True, slots=True)
class Nominal:
    """What a correct analysis finds in every export of a family.

    Attributes:
        towers: the stacks of blocks.
        interface: axes that cannot be permuted because the outside world reads them.
        other: free spaces outside blocks and residual streams, by name, with their size.
        notes: what forbids a group, or is easily taken for one.
        exceptions: by shell pattern of an export path, counts that differ there. The note says why.
    """

    towers: tuple[Tower, ...]
    interface: tuple[str, ...] = ()
    other: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exceptions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, int]:
        """Number of symmetry groups by kind, latent residual streams not counted as free.

        One `head` per attention, one `head_member` per attention whose query heads share keys,
        one `head_qk` and one `head_vo` per attention (the inner permutations of all its heads
        together), one `mlp` per block (of all its experts together), one `expert` per block that
        has experts. One head is no group.
        """
        found = [tower.groups for tower in self.towers]
        return {kind: sum(groups[kind] for groups in found) for kind in KINDS}

    @property
    def latent_residuals(self) -> int:
        """Number of residual streams that are free only when latent outputs may change basis."""
        return sum(tower.latent and tower.stream for tower in self.towers)

    def free_groups(self, path: str) -> dict[str, int]:
        """Return the groups by kind when latent outputs may change basis, for an export path."""
        expected = self.groups
        expected["residual"] += self.latent_residuals
        for pattern, counts in self.exceptions.items():
            if fnmatch(path, pattern):
                expected |= counts
        return expected

    def as_record(self) -> dict[str, Any]:
        """Return the counts and notes as plain data."""
        return {
            "groups": self.groups,
            "latent_residuals": self.latent_residuals,
            "interface": list(self.interface),
            "other": dict(self.other),
            "notes": list(self.notes),
        }


LATENT = "last_hidden_state axis 2 (latent: the residual stream)"
POOLER = "pooler_output axis 1: the pooler's output axis"
VOCABULARY = "vocabulary"
CLASSES = "labels"
POSITION = "positions"
PIXEL_PATCH = "image channels and patch pixels"
PROJECTED = "projection axis of the embeddings"
