"""Synthetic inputs that a model accepts, guessed from its input signature.

Names and symbols are hints: an input of an unusual name may get values that the model rejects;
then real inputs have to be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from graphrebase.errors import UsageError
from graphrebase.runtime.session import Array, Dim, InputSpec

DEFAULT_VOCAB: Final = 100
"""Token ids are drawn below this where nothing else is known."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes for dynamic axes.

    Attributes:
        batch: number of samples.
        sequence: tokens per sample, and the size of any symbol of unknown meaning.
        past: tokens already in a key-value cache.
        image: height and width of images of dynamic size.
        symbols: sizes of symbols by name; they win over the guesses.
    """

    batch: int = 2
    sequence: int = 8
    past: int = 0
    image: int = 32
    symbols: Mapping[str, int] = field(default_factory=dict)


def synthetic_inputs(
    signature: Sequence[InputSpec],
    *,
    batch: int = 2,
    sequence: int = 8,
    seed: int = 0,
    vocab: Mapping[str, int] | None = None,
    sizes: Sizes | None = None,
) -> dict[str, Array]:
    """Return one array per input, the same for the same seed.

    Masks are ones, token types zeros, positions count on, ids are drawn uniformly, everything
    else is standard normal. A symbol has the same size wherever it stands.

    Args:
        signature: the model's inputs.
        batch: number of samples on dynamic axes.
        sequence: tokens per sample on dynamic axes.
        seed: of the random values.
        vocab: number of ids by input name, 100 where absent.
        sizes: all sizes at once; ``batch`` and ``sequence`` are then not used.

    Raises:
        UsageError: a vocabulary is empty.
    """
    sizes = sizes or Sizes(batch, sequence)
    symbols = _symbol_table(signature, sizes)
    rng = np.random.default_rng(seed)
    bounds = vocab or {}
    arrays = {}
    for spec in signature:
        shape = tuple(_size(spec, axis, symbols, sizes) for axis in range(len(spec.shape)))
        high = bounds.get(spec.name, DEFAULT_VOCAB)
        if high < 1:
            raise UsageError(f"the vocabulary of input {spec.name!r} is empty")
        call = _Call(shape, rng, high, sizes.past)
        arrays[spec.name] = _filler(spec)(call).astype(spec.dtype)
    return arrays


PROBE_SIZES: Final = (Sizes(batch=2, sequence=7), Sizes(batch=3, sequence=12, past=3, image=64))
"""One size is not enough: an axis as long as a slice of it looks free at that size only."""


def probe_inputs(
    signature: Sequence[InputSpec],
    *,
    seed: int = 0,
    vocab: Mapping[str, int] | None = None,
    sizes: Sequence[Sizes] = PROBE_SIZES,
) -> list[dict[str, Array]]:
    """Return synthetic inputs of each size, with other values each.

    Sizes differ on dynamic axes only; see ``synthetic_inputs``.
    """
    return [
        synthetic_inputs(signature, seed=seed + index, vocab=vocab, sizes=one)
        for index, one in enumerate(sizes)
    ]


# ------------------------------------------------------------------------------------- sizes
def _symbol_table(signature: Sequence[InputSpec], sizes: Sizes) -> dict[str, int]:
    """Return a size for every symbol of the signature."""
    places: dict[str, list[tuple[InputSpec, int]]] = {}
    for spec in signature:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                places.setdefault(dim, []).append((spec, axis))
    return {symbol: _symbol_size(symbol, places[symbol], sizes) for symbol in places}


def _symbol_size(symbol: str, places: Sequence[tuple[InputSpec, int]], sizes: Sizes) -> int:
    if symbol in sizes.symbols:
        return sizes.symbols[symbol]
    parts = [part.strip() for part in symbol.split("+")]
    if len(parts) > 1:  # "past_sequence_length + sequence_length"
        return sum(int(p) if p.isdigit() else _symbol_size(p, places, sizes) for p in parts)
    for hint, named in _SYMBOL_HINTS:
        if hint.search(symbol.lower()):
            return named(sizes)
    if any(_is_image(spec, axis) for spec, axis in places):
        return sizes.image
    return sizes.batch if all(axis == 0 for _, axis in places) else sizes.sequence


_SYMBOL_HINTS: Final[tuple[tuple[re.Pattern[str], Callable[[Sizes], int]], ...]] = (
    (re.compile(r"total"), lambda s: s.past + s.sequence),
    (re.compile(r"past"), lambda s: s.past),
    (re.compile(r"batch|^n$|^b$"), lambda s: s.batch),
    (re.compile(r"height|width"), lambda s: s.image),
    (re.compile(r"seq|len|token"), lambda s: s.sequence),
)


def _size(spec: InputSpec, axis: int, symbols: Mapping[str, int], sizes: Sizes) -> int:
    dim: Dim = spec.shape[axis]
    if isinstance(dim, int) and dim >= 0:
        return dim
    if isinstance(dim, str):
        return symbols[dim]
    if _is_image(spec, axis):
        return sizes.image
    return sizes.batch if axis == 0 else sizes.sequence


def _is_image(spec: InputSpec, axis: int) -> bool:
    """Say whether an axis is the height or width of (N, channels, H, W)."""
    cache = re.search(r"past|cache|key|value(?!s$)", spec.name.lower())
    return len(spec.shape) == 4 and spec.dtype.kind not in "iub" and axis >= 2 and not cache


# ------------------------------------------------------------------------------------- values
@dataclass(frozen=True, slots=True)
class _Call:
    shape: tuple[int, ...]
    rng: np.random.Generator
    vocab: int
    past: int


def _positions(call: _Call) -> Array:
    if not call.shape:
        return np.array(call.past)
    return np.broadcast_to(call.past + np.arange(call.shape[-1]), call.shape).copy()


def _ones(call: _Call) -> Array:
    return np.ones(call.shape)


def _zeros(call: _Call) -> Array:
    return np.zeros(call.shape)


def _coins(call: _Call) -> Array:
    return call.rng.random(call.shape) < 0.5


def _ids(call: _Call) -> Array:
    return call.rng.integers(0, call.vocab, call.shape)


def _normal(call: _Call) -> Array:
    return np.asarray(call.rng.standard_normal(call.shape))


_Filler = Callable[[_Call], Array]
_BY_NAME: Final[tuple[tuple[re.Pattern[str], str, _Filler], ...]] = (
    # All patches masked would hide the image from the check.
    (re.compile(r"bool_masked"), "b", _coins),
    # Ones: as a 0/1 mask nothing is hidden, and as an additive mask softmax does not see them.
    (re.compile(r"mask"), "biuf", _ones),
    (re.compile(r"position|^pos(_|$)"), "iu", _positions),
    (re.compile(r"token_type|segment"), "iu", _zeros),
)
_BY_KIND: Final[dict[str, _Filler]] = {"b": _ones, "i": _ids, "u": _ids}


def _filler(spec: InputSpec) -> _Filler:
    """Return what fills an input: by name and kind of type first, else by kind."""
    kind = spec.dtype.kind if spec.dtype.kind in "biu" else "f"  # bfloat16 has the kind "V"
    for pattern, kinds, filler in _BY_NAME:
        if kind in kinds and pattern.search(spec.name.lower()):
            return filler
    return _BY_KIND.get(kind, _normal)
