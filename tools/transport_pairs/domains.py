"""What models are trained and judged on, by name: batches without end, and held-out sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from transport_pairs.corpora import CLS, CORPORA, MASK, corpus
from transport_pairs.glyphs import (
    CLASSES,
    PLAIN,
    RICH,
    Batch,
    Style,
    digit_split,
    glyph_batches,
)
from transport_pairs.shapes import FIELDS, FILLED, OUTLINED, VARIED, Drawing, shape_batches

IMAGE_CLASSES = len(CLASSES) + len(FIELDS)
WINDOW = 64  # tokens of a text sample
MASKED = 0.3  # share of tokens that a masked model has to guess
IGNORED = -100
SPECIMENS = ("readme", "licence", "code", "headers", "docs-python", "docs-science")
NEW_GLYPHS = replace(RICH, rotate=12.0, scale=(0.85, 1.5), shear=0.15, blur=0.6, noise=0.12)
TURNED = replace(PLAIN, fonts=("cmr10", "cmb10", "cmtt10", "cmss10"))


@dataclass(frozen=True, slots=True)
class Domain:
    """A source of labelled data.

    Attributes:
        batches: of a split ("train" or "test"), a size and a seed: batches without end.
    """

    batches: Callable[[str, int, int], Iterator[Batch]]

    def held_out(self, count: int) -> Batch:
        """Return `count` samples that no training draws."""
        return next(self.batches("test", count, 0))


def shuffled(data: Batch, size: int, seed: int) -> Iterator[Batch]:
    """Draw batches from a data set for ever, without replacement within an epoch."""
    source = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[1]), generator=source)
        for rows in torch.split(order, size):
            yield data[0][rows], data[1][rows]


# ----------------------------------------------------------------------------------- images
def _seed(split: str, seed: int) -> int:
    return seed if split == "train" else 1_000_003 + seed


def glyphs_and_shapes(style: Style, drawing: Drawing) -> Domain:
    """Return glyphs with a quarter of shapes, the classes of shapes after those of glyphs."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        shapes, start = size // 4, _seed(split, seed)
        first = glyph_batches(style, size - shapes, start)
        second = shape_batches(drawing, shapes, start, len(CLASSES))
        for one, two in zip(first, second, strict=True):
            yield torch.cat((one[0], two[0])), torch.cat((one[1], two[1]))

    return Domain(batches)


def digits() -> Domain:
    """Return scikit-learn's handwritten digits; the test split is always the same."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        train, test = digit_split(seed=0)
        return shuffled(train if split == "train" else test, size, seed)

    return Domain(batches)


def turned_glyphs() -> Domain:
    """Return glyphs of fonts that no base saw, lying on their side."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        for images, labels in glyph_batches(TURNED, size, _seed(split, seed)):
            yield images.rot90(1, (2, 3)), labels

    return Domain(batches)


def outlined_shapes() -> Domain:
    """Return outlines of shapes, dark on bright cloth."""
    return Domain(
        lambda split, size, seed: shape_batches(OUTLINED, size, _seed(split, seed), len(CLASSES))
    )


# ------------------------------------------------------------------------------------- text
def _windows(tokens: Tensor, size: int, length: int, source: torch.Generator) -> Tensor:
    """Return windows `(size, length)` of a text, at random places."""
    starts = torch.randint(len(tokens) - length, (size, 1), generator=source)
    return tokens[starts + torch.arange(length)].long()


def _split(name: str, split: str, cache: Path | None) -> Tensor:
    return torch.from_numpy(corpus(name, cache)[split != "train"].copy())


@dataclass(frozen=True, slots=True)
class Text:
    """A mixture of corpora, by share."""

    mixture: Mapping[str, float]
    cache: Path | None

    def windows(self, split: str, size: int, length: int, seed: int) -> Iterator[Tensor]:
        """Draw windows `(size, length)` for ever."""
        texts = [_split(name, split, self.cache) for name in self.mixture]
        shares = torch.tensor(list(self.mixture.values()))
        source = torch.Generator().manual_seed(_seed(split, seed))
        while True:
            which = torch.multinomial(shares, size, replacement=True, generator=source)
            counts = torch.bincount(which, minlength=len(texts)).tolist()
            parts = [
                _windows(t, n, length, source) for t, n in zip(texts, counts, strict=True) if n
            ]
            yield torch.cat(parts)[torch.randperm(size, generator=source)]


def next_token(text: Text) -> Domain:
    """Return windows whose labels are the tokens that follow."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        for window in text.windows(split, size, WINDOW + 1, seed):
            yield window[:, :-1], window[:, 1:]

    return Domain(batches)


def masked_token(text: Text) -> Domain:
    """Return windows after a start token, some tokens masked; labels are those tokens."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        source = torch.Generator().manual_seed(_seed(split, seed) + 7)
        for window in text.windows(split, size, WINDOW - 1, seed):
            hidden = torch.rand(window.shape, generator=source) < MASKED
            labels = window.masked_fill(~hidden, IGNORED)
            yield _started(window.masked_fill(hidden, MASK)), _started(labels, IGNORED)

    return Domain(batches)


def which_source(cache: Path | None) -> Domain:
    """Return windows after a start token, each labelled with the corpus it is from."""

    def batches(split: str, size: int, seed: int) -> Iterator[Batch]:
        each = -(-size // len(SPECIMENS))
        streams = [
            Text({name: 1.0}, cache).windows(split, each, WINDOW - 1, seed) for name in SPECIMENS
        ]
        labels = torch.arange(len(SPECIMENS)).repeat_interleave(each)
        source = torch.Generator().manual_seed(_seed(split, seed) + 9)
        for parts in zip(*streams, strict=True):
            order = torch.randperm(len(labels), generator=source)[:size]
            yield _started(torch.cat(parts)[order]), labels[order]

    return Domain(batches)


def _started(tokens: Tensor, first: int = CLS) -> Tensor:
    return torch.cat((torch.full((len(tokens), 1), first), tokens), 1)


# ------------------------------------------------------------------------------------ table
OLD_TEXT = {"docs-python": 0.8, "readme": 0.2}
NEW_TEXT = {"docs-science": 0.8, "readme": 0.2}
OLD_MIXED = {"docs-python": 0.5, "code": 0.25, "headers": 0.25}
NEW_MIXED = {"docs-science": 0.5, "licence": 0.25, "code": 0.25}


def domains(cache: Path | None) -> dict[str, Domain]:
    """Return every domain by name; `cache` is a folder that keeps the collected texts."""
    table = {
        "images-old": glyphs_and_shapes(PLAIN, FILLED),
        "images-new": glyphs_and_shapes(NEW_GLYPHS, VARIED),
        "digits": digits(),
        "turned": turned_glyphs(),
        "outlines": outlined_shapes(),
        "text-old": next_token(Text(OLD_TEXT, cache)),
        "text-new": next_token(Text(NEW_TEXT, cache)),
        "masked-old": masked_token(Text(OLD_MIXED, cache)),
        "masked-new": masked_token(Text(NEW_MIXED, cache)),
        "notes": masked_token(Text({"readme": 1.0}, cache)),
        "source": which_source(cache),
    }
    return table | {name: next_token(Text({name: 1.0}, cache)) for name in CORPORA}
