"""Two vocabularies: which tokens mean the same, and inputs carried from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphrebase.errors import InputError
from graphrebase.runtime.data import load_npz

Arrays = Mapping[str, np.ndarray]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenMap:
    """Rows of the old and of the new vocabulary that correspond, (n,) each."""

    a: Indices
    b: Indices


def read_token_map(path: Path) -> TokenMap:
    """Return the token map of an npz file with the arrays ``a`` and ``b``.

    Raises:
        InputError: it cannot be read, or is not a one-to-one map.
    """
    arrays = load_npz(path)
    if set(arrays) != {"a", "b"}:
        raise InputError(
            f"a vocabulary map has the arrays 'a' and 'b', this file {sorted(arrays)}",
            where=str(path),
            hint="row a[i] of the base's table means what row b[i] of the target's means",
        )
    for name, rows in arrays.items():
        plain = rows.ndim == 1 and rows.dtype.kind in "iu" and rows.size > 0
        if not plain or len(rows) != len(arrays["a"]) or rows.min() < 0:
            raise InputError(
                f"'{name}' has type {rows.dtype} and shape {rows.shape}",
                where=str(path),
                hint="store row numbers, in two vectors of one length",
            )
        if len(np.unique(rows)) < len(rows):
            raise InputError(
                f"'{name}' names a row twice", where=str(path), hint="every token has one partner"
            )
    return TokenMap(*(arrays[name].astype(np.int64) for name in ("a", "b")))


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """Two vocabularies and the input that holds their tokens.

    Attributes:
        input: the graph input.
        tokens: which correspond.
        sizes: of the old and the new vocabulary.
    """

    input: str
    tokens: TokenMap
    sizes: tuple[int, int]

    @property
    def shared(self) -> NDArray[np.bool_]:
        """Which tokens of the new vocabulary have a partner, (V,)."""
        found = np.zeros(self.sizes[1], bool)
        found[self.tokens.b] = True
        return found

    def to_new(self, arrays: Arrays) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Return inputs in the new vocabulary, and which tokens it has, (samples, tokens)."""
        return self._translated(arrays, self.tokens.a, self.tokens.b, self.sizes[0])

    def to_old(self, arrays: Arrays) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Return inputs in the old vocabulary, and which tokens it has, (samples, tokens)."""
        return self._translated(arrays, self.tokens.b, self.tokens.a, self.sizes[1])

    def _translated(
        self, arrays: Arrays, own: Indices, other: Indices, size: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Replace tokens by their partners; one without a partner becomes some other token."""
        ids = arrays.get(self.input)
        if ids is None:
            return dict(arrays), None
        if ids.size and (ids.min() < 0 or ids.max() >= size):
            raise InputError(
                f"'{self.input}' holds the token {int(ids.max())}, the vocabulary has {size}",
                hint="--probes are inputs of the fine-tuned model, --keep-data of the target",
            )
        table = np.full(size, -1)
        table[own] = other
        found = table[ids]
        known = found >= 0
        found = np.where(known, found, other[0]).astype(ids.dtype)
        return {**arrays, self.input: found}, known

    def common(self, logits: np.ndarray, *, new: bool) -> np.ndarray:
        """Return the logits of the tokens that both have; those of anything else as they are."""
        rows = self.tokens.b if new else self.tokens.a
        return logits[..., rows] if logits.shape[-1] == self.sizes[int(new)] else logits

    def in_new_columns(self, logits: np.ndarray) -> np.ndarray:
        """Return logits of the old vocabulary in the order of the new one, zeros where it is new.

        Those of anything else stay as they are.
        """
        if logits.shape[-1] != self.sizes[0]:
            return logits
        found = np.zeros((*logits.shape[:-1], self.sizes[1]), logits.dtype)
        found[..., self.tokens.b] = logits[..., self.tokens.a]
        return found
