"""Planted release pairs: B is a permutation of A plus noise, A_ft is A plus a task vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from graphrebase.align import Alignment
from graphrebase.align.maps import random_maps
from graphrebase.io import read_model
from graphrebase.rebase.basis import aligned_basis, write_basis
from graphrebase.structure import Structure, find_structure


@dataclass(frozen=True)
class Planted:
    """Files of a planted pair and the alignment that leads from A to B."""

    base: Path
    finetuned: Path
    target: Path
    alignment: Alignment
    structure: Structure


def edit_weights(
    source: Path, output: Path, change: Callable[[str, np.ndarray], np.ndarray]
) -> None:
    """Write a copy of a model with every learned tensor changed."""
    structure = find_structure(read_model(source))
    learned = {r.view.tensor for r in structure.roles.values() if r.kind != "other" or any(r.axes)}
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in learned:
            old = numpy_helper.to_array(tensor)
            new = change(tensor.name, old).astype(old.dtype)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    onnx.save(model, output)


def noise(share: float, seed: int) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a change that adds noise of ``share`` of each tensor's standard deviation."""
    rng = np.random.default_rng(seed)
    return lambda _, a: a + share * a.std() * rng.standard_normal(a.shape)


def permuted(source: Path, output: Path, *, seed: int = 1, intra: str = "split") -> Alignment:
    """Write a randomly permuted copy of a model; returns the alignment to it."""
    structure = find_structure(read_model(source))
    rng = np.random.default_rng(seed)
    maps = random_maps(structure.spaces, rng, fixed=structure.fixed, intra=intra)
    alignment = Alignment(maps, "planted")
    write_basis(structure.model, aligned_basis(structure, alignment), output, {})
    return alignment


def plant(
    base: Path, folder: Path, *, share: float = 0.1, intra: str = "split", seed: int = 1
) -> Planted:
    """Make A_ft and B from A."""
    clean, target, tuned = (folder / f"{n}.onnx" for n in ("clean", "target", "finetuned"))
    alignment = permuted(base, clean, seed=seed, intra=intra)
    edit_weights(clean, target, noise(share, seed + 1))
    edit_weights(base, tuned, noise(0.05, seed + 2))
    return Planted(base, tuned, target, alignment, find_structure(read_model(base)))


def planted_map(alignment: Alignment, space: str) -> np.ndarray:
    """Return the planted map of a space; residual points share the planted stream's."""
    if space.startswith("residual."):
        return alignment.maps["residual"]
    return alignment.maps[space]
