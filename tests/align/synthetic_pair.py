"""Synthetic transformer pairs in canonical form: no model files, every symmetry of a real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphrebase.align import AlignmentProblem, Space, Weight
from graphrebase.align.action import permute_axes
from graphrebase.align.maps import random_maps
from graphrebase.align.problem import Axes

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a synthetic transformer; `members` > 1 makes grouped queries."""

    layers: int = 2
    width: int = 32
    heads: int = 4
    head_dim: int = 8
    members: int = 1
    mlp: int = 64
    vocab: int = 50
    classes: int = 10
    shared: bool = False
    rotary: bool = False
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """Spaces, and (role, axes, array) of every weight."""

    spaces: Mapping[str, Space]
    weights: tuple[tuple[str, Axes, NDArray[Any]], ...]


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Plain Gaussian entries."""
    return rng.standard_normal(shape).astype(np.float32)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """Heavy-tailed entries with log-normal scales along every axis, as training leaves them."""
    array = rng.standard_t(4, shape)
    for axis, length in enumerate(shape):
        scale = np.exp(0.3 * rng.standard_normal(length))
        array = array * scale.reshape([-1 if p == axis else 1 for p in range(len(shape))])
    return (0.05 * array).astype(np.float32)


def spaces_of(shape: Shape) -> dict[str, Space]:
    """Return the spaces of a transformer of that shape."""
    found: list[Space] = []
    points = 1 if shape.shared else 2 * shape.layers + 1
    found += [Space(residual(shape, p), "residual", shape.width) for p in range(points)]
    h, d = shape.heads, shape.head_dim
    for i in range(shape.layers):
        name = f"block.{i}"
        found.append(Space(f"{name}.head", "head", h))
        if shape.members > 1:
            found.append(
                Space(f"{name}.head_member", "head_member", shape.members, f"{name}.head", h)
            )
        if not shape.rotary:
            found.append(Space(f"{name}.head_qk", "head_qk", d, f"{name}.head", h))
        found.append(Space(f"{name}.head_vo", "head_vo", d, f"{name}.head", h))
        found.append(Space(f"{name}.mlp", "mlp", shape.mlp))
    return {space.name: space for space in found}


def residual(shape: Shape, point: int) -> str:
    """Return the name of a residual point's space."""
    return "residual" if shape.shared else f"residual.{point}"


def draw_model(shape: Shape, seed: int, draw: Draw = heavy) -> Model:
    """Return random weights of a transformer of that shape."""
    rng = np.random.default_rng([seed, 7])
    spaces = spaces_of(shape)
    weights: list[tuple[str, Axes, NDArray[Any]]] = []

    def add(role: str, axes: Axes, sizes: tuple[int, ...], gain: float = 0.0) -> None:
        weights.append((role, axes, draw(rng, sizes) + np.float32(gain)))

    width, h, d, g = shape.width, shape.heads, shape.head_dim, shape.members
    add("embedding", (None, residual(shape, 0)), (shape.vocab, width))
    for i in range(shape.layers):
        block = f"block.{i}"
        start, middle, end = (residual(shape, 2 * i + k) for k in range(3))
        head, qk, vo = (f"{block}.{kind}" for kind in ("head", "head_qk", "head_vo"))
        inner = None if shape.rotary else qk
        member = ((f"{block}.head_member",), (g,)) if g > 1 else ((), ())
        add(f"{block}.norm_1", (start,), (width,), 1.0)
        query = (head, *member[0], inner)
        add(f"{block}.q", (*query, start), (h, *member[1], d, width))
        add(f"{block}.q_bias", query, (h, *member[1], d))
        add(f"{block}.k", (head, inner, start), (h, d, width))
        add(f"{block}.k_bias", (head, inner), (h, d))
        add(f"{block}.v", (head, vo, start), (h, d, width))
        add(f"{block}.v_bias", (head, vo), (h, d))
        add(f"{block}.o", (middle, head, *member[0], vo), (width, h, *member[1], d))
        add(f"{block}.o_bias", (middle,), (width,))
        add(f"{block}.norm_2", (middle,), (width,), 1.0)
        mlp = f"{block}.mlp"
        for role in ("gate", "up") if shape.gated else ("fc1",):
            add(f"{block}.{role}", (mlp, middle), (shape.mlp, width))
        add(f"{block}.fc1_bias", (mlp,), (shape.mlp,))
        add(f"{block}.fc2", (end, mlp), (width, shape.mlp))
        add(f"{block}.fc2_bias", (end,), (width,))
    last = residual(shape, 2 * shape.layers)
    add("norm", (last,), (width,), 1.0)
    add("head", (None, last), (shape.classes, width))
    return Model(spaces, tuple(weights))


def pair(a: Model, b: Model) -> AlignmentProblem:
    """Return the problem of aligning two models of one shape."""
    weights = tuple(
        Weight(role, axes, lambda x=x: x, lambda y=y: y)  # type: ignore[misc]
        for (role, axes, x), (_, _, y) in zip(a.weights, b.weights, strict=True)
    )
    return AlignmentProblem(a.spaces, weights)


def noisy(model: Model, noise: float, seed: int) -> Model:
    """Return the model plus Gaussian noise of that share of each tensor's deviation."""
    rng = np.random.default_rng([seed, 8])
    weights = tuple(
        (role, axes, (x + noise * x.std() * rng.standard_normal(x.shape)).astype(np.float32))
        for role, axes, x in model.weights
    )
    return Model(model.spaces, weights)


def plant(
    a: Model, seed: int, *, noise: float = 0.1, intra: str = "split"
) -> tuple[AlignmentProblem, dict[str, NDArray[np.int64]]]:
    """Return A against a randomly permuted, noisy copy of itself, and the true maps."""
    maps = random_maps(a.spaces, np.random.default_rng([seed, 9]), intra=intra)
    moved = tuple(
        (role, axes, permute_axes(x, axes, maps, a.spaces, np)) for role, axes, x in a.weights
    )
    return pair(a, noisy(Model(a.spaces, moved), noise, seed)), maps
