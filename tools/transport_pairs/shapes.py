"""Images of procedural shapes and textures: the second domain of the vision pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transport_pairs.glyphs import IMAGE, Batch

SHARPNESS = 22.0  # of an edge, per unit of the coordinates (-1..1 across the image)
Field = Callable[[Tensor, Tensor], Tensor]


def _polygon(u: Tensor, v: Tensor, corners: int, radius: float) -> Tensor:
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return radius - torch.stack([u * math.sin(a) - v * math.cos(a) for a in angles]).amax(0)


def _bar(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(0.2 - u.abs(), 0.75 - v.abs())


def _star(u: Tensor, v: Tensor) -> Tensor:
    return 0.45 + 0.25 * torch.cos(5 * torch.atan2(u, v)) - torch.hypot(u, v)


def _moon(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(0.7 - torch.hypot(u, v), torch.hypot(u - 0.4, v) - 0.5)


FIELDS: dict[str, Field] = {
    "disc": lambda u, v: 0.6 - torch.hypot(u, v),
    "ring": lambda u, v: 0.16 - (torch.hypot(u, v) - 0.55).abs(),
    "square": lambda u, v: _polygon(u, v, 4, 0.55),
    "triangle": lambda u, v: _polygon(u, v, 3, 0.38),
    "plus": lambda u, v: torch.maximum(_bar(u, v), _bar(v, u)),
    "star": _star,
    "moon": _moon,
    "stripes": lambda u, v: torch.sin(8 * u) / 8,
    "checks": lambda u, v: torch.sin(6 * u) * torch.sin(6 * v) / 4,
    "dots": lambda u, v: (torch.cos(8 * u) + torch.cos(8 * v) - 0.9) / 8,
}
"""Each class as a field over the plane (-1..1), positive inside, about a distance at the edge."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A domain of shapes: how they are placed and drawn."""

    rotate: float  # degrees, either way
    scale: tuple[float, float]
    shift: float
    noise: float  # largest standard deviation, of the range 0..1
    texture: float  # largest weight of coarse noise behind the shape
    outline: float  # half the width of the line; 0: filled
    inverted: bool  # dark on bright


FILLED = Drawing(20.0, (0.85, 1.2), 0.1, 0.1, 0.0, 0.0, False)
VARIED = Drawing(40.0, (0.75, 1.25), 0.15, 0.12, 0.15, 0.0, False)
OUTLINED = Drawing(45.0, (0.8, 1.2), 0.15, 0.15, 0.3, 0.11, True)


def draw(labels: Tensor, style: Drawing, source: torch.Generator) -> Tensor:
    """Draw a shape per label `(n,)`; returns images `(n, 1, IMAGE, IMAGE)` in -1..1."""
    count = len(labels)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=source)

    axis = (torch.arange(IMAGE) + 0.5) / IMAGE * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x - uniform(-style.shift, style.shift), y - uniform(-style.shift, style.shift)
    angle = uniform(-style.rotate, style.rotate) * math.pi / 180
    zoom = 1 / uniform(*style.scale)
    u = zoom * (x * angle.cos() - y * angle.sin())
    v = zoom * (x * angle.sin() + y * angle.cos())
    field = torch.empty(count, IMAGE, IMAGE)
    for label, shape in enumerate(FIELDS.values()):
        rows = labels == label
        field[rows] = shape(u[rows], v[rows])
    if style.outline:
        field = style.outline - field.abs()
    ink = torch.sigmoid(SHARPNESS * field) * uniform(0.6, 1.0)
    coarse = torch.rand(count, 1, 5, 5, generator=source)
    cloth = F.interpolate(coarse, (IMAGE, IMAGE), mode="bilinear", align_corners=False)[:, 0]
    image = ink.maximum(cloth * uniform(0.0, style.texture))
    if style.inverted:
        image = 1 - image
    grain = uniform(0.0, style.noise) * torch.randn(image.shape, generator=source)
    return ((image + grain).clamp(0, 1) * 2 - 1)[:, None]


def shape_batches(style: Drawing, size: int, seed: int, first: int = 0) -> Iterator[Batch]:
    """Draw batches of shapes for ever; the class of shape k is `first + k`."""
    source = torch.Generator().manual_seed(seed)
    while True:
        labels = torch.randint(len(FIELDS), (size,), generator=source)
        yield draw(labels, style, source), labels + first
