"""Exposed values: what a node computes, in memory, with weights replaced where asked."""

from __future__ import annotations

import numpy as np
import pytest
from zoo_fixture import zoo_model

from graphrebase.errors import InputError
from graphrebase.io import read_model
from graphrebase.runtime import Session, exposed
from graphrebase.runtime.images import pool
from graphrebase.runtime.probes import spread
from graphrebase.structure import find_structure


def test_a_value_inside_becomes_the_output() -> None:
    path = zoo_model("vit-cls-ts17-eager").path
    before = path.read_bytes()
    structure = find_structure(read_model(path))
    head = structure.roles["head.pooled.0.weight"]
    whole = Session(path)
    shape = [d if isinstance(d, int) else 2 for d in whole.inputs["pixel_values"].shape]
    inputs = {"pixel_values": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    hidden = exposed(structure.model, [head.reads]).run(inputs)[head.reads]
    bias = structure.read("head.pooled.0.bias")
    logits = hidden @ structure.read("head.pooled.0.weight").T + bias
    np.testing.assert_allclose(logits, whole.run(inputs)[whole.outputs[0]], atol=1e-5)
    assert path.read_bytes() == before
    tensor = structure.roles["head.pooled.0.bias"].view.tensor
    changed = exposed(structure.model, list(whole.outputs), {tensor: bias + 1})
    np.testing.assert_allclose(changed.run(inputs)[whole.outputs[0]], logits + 1, atol=1e-5)
    with pytest.raises(InputError):
        exposed(structure.model, list(whole.outputs), {"nothing": bias})


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 40, 24)])
def test_pooled_images_fill_their_range(shape) -> None:
    images = pool(np.random.default_rng(0), 30, shape, -1.0, 1.0)
    assert images.shape == (30, *shape)
    assert images.min() >= -1.01 and images.max() <= 1.01
    assert images.std() > 0.2
    assert len({image.tobytes() for image in images}) == 30


def test_the_selection_takes_classes_in_turn() -> None:
    worth = np.array([0.9, 0.8, 0.7, 0.1, 0.6])
    classes = np.array([0, 0, 0, 1, 2])
    assert spread(worth, classes, 4).tolist() == [0, 4, 3, 1]
