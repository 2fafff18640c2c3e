"""Generated images: the range of pixel values is found, selection spreads over classes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphrebase.runtime import Session
from graphrebase.runtime.image_probes import SCALES, find_range, spread

EXAMPLE = Path(str(files("graphrebase") / "example"))


def shifted(name: str, folder: Path, low: float, high: float) -> Session:
    """Return a model of the example, made for pixels of -1..1, as one for low..high."""
    proto = onnx.load(EXAMPLE / f"{name}.onnx")
    entry = proto.graph.input[0].name
    gain = 2 / (high - low)
    for node in proto.graph.node:
        node.input[:] = ["plain" if value == entry else value for value in node.input]
    constants = {"gain": gain, "offset": -1 - gain * low}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(x, np.float32), key) for key, x in constants.items()
    )
    proto.graph.node.insert(0, helper.make_node("Add", ["scaled", "offset"], ["plain"]))
    proto.graph.node.insert(0, helper.make_node("Mul", [entry, "gain"], ["scaled"]))
    path = folder / f"{name}.onnx"
    onnx.save(proto, path)
    return Session(path)


@pytest.mark.parametrize("scale", SCALES)
def test_the_range_that_models_were_made_for_is_found(
    tmp_path: Path, scale: tuple[float, float]
) -> None:
    sessions = [shifted(name, tmp_path, *scale) for name in ("v1", "v1_ft", "v2")]
    spec = next(iter(sessions[0].inputs.values()))
    shape = tuple(int(n) for n in spec.shape[1:])
    rng = np.random.default_rng(0)
    assert find_range(sessions, spec.name, rng, shape, 50) == scale  # type: ignore[arg-type]


def test_selection_takes_the_worthiest_of_every_class_in_turn() -> None:
    worth = np.array([0.9, 0.8, 0.7, 0.1, 0.2])
    classes = np.array([0, 0, 0, 1, 1])
    assert spread(worth, classes, 4).tolist() == [0, 4, 1, 3]
