"""Images of rendered glyphs and handwritten digits: the domains of the vision pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase, digits

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor

CLASSES = digits + ascii_uppercase + "abdefghnqrt" + "+=?!&%#@$"
IMAGE, CANVAS = 16, 48  # side of an image; of a rendered glyph before it is distorted
HELD_OUT = 500  # images in each evaluation set

Batch = tuple[Tensor, Tensor]  # inputs (n, ..), labels (n,) or (n, tokens)


@dataclass(frozen=True, slots=True)
class Style:
    """A domain of rendered glyphs: its fonts and how strongly glyphs are distorted."""

    fonts: tuple[str, ...]
    strokes: tuple[int, ...]  # pixels of CANVAS added around the outline
    rotate: float  # degrees, either way
    scale: tuple[float, float]  # of the canvas in the image
    aspect: float  # largest relative stretch of the width, either way
    shear: float
    shift: float  # share of the image, either way
    blur: float  # largest weight of the 3 x 3 mean
    noise: float  # largest standard deviation, of the range 0..1


PLAIN = Style(
    fonts=("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono"),
    strokes=(0, 1),
    rotate=8.0,
    scale=(0.9, 1.4),
    aspect=0.1,
    shear=0.1,
    shift=0.06,
    blur=0.3,
    noise=0.1,
)
RICH = Style(
    fonts=(
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
        *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    ),
    strokes=(0, 1, 2),
    rotate=15.0,
    scale=(0.8, 1.6),
    aspect=0.25,
    shear=0.2,
    shift=0.09,
    blur=1.0,
    noise=0.15,
)


def render(font: ImageFont.FreeTypeFont, character: str, stroke: int) -> np.ndarray:
    """Draw a character, bright on dark, in the middle of a `(CANVAS, CANVAS)` uint8 image."""
    canvas = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=font, stroke_width=stroke)
    corner = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    draw.text(corner, character, fill=255, font=font, stroke_width=stroke)
    return np.asarray(canvas)


def glyph_bank(style: Style) -> Tensor:
    """Return all undistorted glyphs of a style, `(variants, classes, CANVAS, CANVAS)` uint8."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 38) for name in style.fonts]
    rows = [
        [render(font, character, stroke) for character in CLASSES]
        for font in fonts
        for stroke in style.strokes
    ]
    return torch.from_numpy(np.array(rows))


def distort(glyphs: Tensor, style: Style, source: torch.Generator) -> Tensor:
    """Rotate, stretch, shear, shift, dim, blur and spoil glyphs `(n, CANVAS, CANVAS)`.

    Returns images `(n, 1, IMAGE, IMAGE)`, float32 in -1..1.
    """
    count = len(glyphs)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=source)

    angle = draw(-style.rotate, style.rotate) * math.pi / 180
    zoom, shear = 1 / draw(*style.scale), draw(-style.shear, style.shear)
    wide = 1 + draw(-style.aspect, style.aspect)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    across, down = draw(-style.shift, style.shift) * 2, draw(-style.shift, style.shift) * 2
    upper = torch.stack((wide * cos, shear * cos - sin, across), 1)
    lower = torch.stack((wide * sin, shear * sin + cos, down), 1)
    twice = 2 * IMAGE  # sampled at twice the resolution, then averaged: no aliasing
    grid = F.affine_grid(torch.stack((upper, lower), 1), [count, 1, twice, twice], False)
    images = F.grid_sample(glyphs[:, None].float() / 255, grid, align_corners=False)
    images = F.avg_pool2d(images, 2) * draw(0.7, 1.0).view(-1, 1, 1, 1)
    soft = draw(0.0, style.blur).view(-1, 1, 1, 1)
    images = images.lerp(F.avg_pool2d(images, 3, stride=1, padding=1), soft)
    spread = draw(0.0, style.noise).view(-1, 1, 1, 1)
    images = images + spread * torch.randn(images.shape, generator=source)
    return images.clamp(0, 1) * 2 - 1


def glyph_batches(style: Style, size: int, seed: int) -> Iterator[Batch]:
    """Draw batches of distorted glyphs for ever; every image is a new one."""
    bank, source = glyph_bank(style), torch.Generator().manual_seed(seed)
    variants, classes = bank.shape[:2]
    while True:
        labels = torch.randint(classes, (size,), generator=source)
        chosen = bank[torch.randint(variants, (size,), generator=source), labels]
        yield distort(chosen, style, source), labels


def digit_split(seed: int) -> tuple[Batch, Batch]:
    """Return scikit-learn's handwritten digits, enlarged from 8 x 8: training, held out."""
    bundled = load_digits()
    images = torch.from_numpy(bundled.images).float()[:, None] / 16
    images = F.interpolate(images, (IMAGE, IMAGE), mode="bilinear", align_corners=False) * 2 - 1
    labels = torch.from_numpy(bundled.target).long()  # class k of CLASSES is the digit k
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    return (images[train], labels[train]), (images[test], labels[test])
