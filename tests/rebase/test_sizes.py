"""Base and target of different widths and depths: rectangular maps, points paired over depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from planted import edit_weights, noise
from zoo_fixture import zoo_folder  # puts the tools on the path

from graphrebase.errors import MismatchError
from graphrebase.io import read_model, structure_difference
from graphrebase.rebase import Settings, align_models, rebase
from graphrebase.rebase.body import build_body
from graphrebase.rebase.ends import find_counterparts
from graphrebase.rebase.places import place
from graphrebase.runtime import Session
from graphrebase.structure import find_structure

assert zoo_folder

SIZES = {
    "base": (16, 2, 2, 32),
    "larger": (24, 3, 3, 40),
    "smaller": (12, 1, 2, 20),
    "deeper": (16, 3, 2, 32),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return vision transformers of random weights, the base one tuned too.

    ``deeper`` is the base with a block put in that does next to nothing.
    """
    import torch
    from transport_pairs.exporting import export
    from transport_pairs.models import FAMILIES, Architecture

    folder = tmp_path_factory.mktemp("sizes")
    found, weights = {}, {}
    for number, (name, sizes) in enumerate(SIZES.items()):
        torch.manual_seed(number)
        found[name] = folder / f"{name}.onnx"
        model = FAMILIES["vit"](Architecture("vit", *sizes)).eval()
        with torch.no_grad():  # the exporter would merge biases that are all zero
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        weights[name] = model.state_dict()
        if name == "deeper":
            model.load_state_dict(deepened(weights["base"], weights["deeper"]))
        export(model, found[name])
    found["tuned"] = folder / "tuned.onnx"
    edit_weights(found["base"], found["tuned"], noise(0.3, 2))
    images = np.random.default_rng(0).standard_normal((96, 1, 16, 16)).astype(np.float32)
    np.savez(folder / "probes.npz", pixel_values=images)
    np.savez(folder / "keep.npz", pixel_values=2 + images[:16])
    found |= {name: folder / f"{name}.npz" for name in ("probes", "keep")}
    return found


def deepened(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a base's weights with a weak block between its two."""
    found = {}
    for name, weight in own.items():
        weak = ".layers.1." in name and any(part in name for part in ("o_proj", "fc2"))
        old = name.replace(".layers.2.", ".layers.1.")
        inserted = ".layers.1." in name
        found[name] = (0.01 * weight if weak else weight) if inserted else base[old]
    return found


def logits(model: Path, images: np.ndarray) -> np.ndarray:
    return Session(model).run({"pixel_values": images})["logits"].astype(np.float64)


@pytest.mark.parametrize("target", ["larger", "smaller"])
def test_another_size_moves_as_the_base_did(
    models: dict[str, Path], target: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    settings = Settings(probes=models["probes"], keep_data=models["keep"])
    result = rebase(models["base"], models["tuned"], models[target], output, settings)
    assert (result.method, result.template) == ("fit", "target")
    assert (result.lineage, result.why) == ("independent", "base and target differ in size")
    assert structure_difference(read_model(models[target]), read_model(output)) == []
    assert result.verdict.evidence is not None
    moved = {entry.role for entry in result.plan if entry.action == "moved"}
    assert {"block.0.mlp.down.weight", "embedding.linear.0.weight"} <= moved
    assert not any("attention" in role for role in moved)


def test_a_head_of_other_classes_is_put_on_another_width(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tuned, output = onnx.load(models["tuned"]), tmp_path / "out.onnx"
    for tensor in tuned.graph.initializer:
        if "classifier" in tensor.name:
            rows = numpy_helper.to_array(tensor)[:7].copy()
            tensor.CopyFrom(numpy_helper.from_array(rows, tensor.name))
    tuned.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = 7
    onnx.save(tuned, tmp_path / "tuned.onnx")
    settings = Settings(probes=models["probes"], keep_data=models["keep"])
    result = rebase(models["base"], tmp_path / "tuned.onnx", models["larger"], output, settings)
    carried = [entry.role for entry in result.plan if entry.action == "carried"]
    assert carried == ["head.pooled.0.weight", "head.pooled.0.bias"]
    found = logits(output, np.zeros((2, 1, 16, 16), np.float32))
    assert found.shape == (2, 7) and np.isfinite(found).all() and np.ptp(found) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "tuned.onnx"]


def test_a_deeper_relative_takes_over_most_of_the_fine_tuning(models: dict[str, Path]) -> None:
    settings = Settings(probes=models["probes"], keep_data=models["keep"])
    result = rebase(models["base"], models["tuned"], models["deeper"], None, settings)
    assert result.verdict.evidence is not None and result.verdict.evidence > 0.5


def test_what_does_not_move_in_the_base_stays_in_the_target(
    models: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    settings = Settings(probes=models["probes"], keep_data=models["keep"])
    rebase(models["base"], models["base"], models["larger"], output, settings)
    images = np.random.default_rng(1).standard_normal((8, 1, 16, 16)).astype(np.float32)
    found, wanted = (logits(path, images) for path in (output, models["larger"]))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    tuned = tmp_path / "tuned.onnx"
    rebase(models["base"], models["tuned"], models["larger"], tuned, settings)
    assert np.abs(logits(tuned, images) - wanted).max() > 1e-2


@pytest.mark.parametrize(
    "settings",
    [
        *(Settings(method=method) for method in ("naive", "transfusion", "anchored")),
        Settings(template="finetuned"),
    ],
)
def test_what_needs_one_size_is_refused(
    models: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(MismatchError) as error:
        rebase(models["base"], models["tuned"], models["larger"], output, settings)
    assert "size" in error.value.message and error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_alignment_between_sizes_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(MismatchError, match="one size"):
        align_models(models["base"], models["larger"], Settings(method="anchored"))


def test_points_are_paired_over_depth(models: dict[str, Path]) -> None:
    base, target = (
        find_structure(read_model(models[name]), residual="per-point")
        for name in ("base", "larger")
    )
    names = find_counterparts(target, base)
    assert names["norm.6.gain"] == "norm.4.gain"
    assert names["embedding.table.17x24"] == "embedding.table.17x16"
    body = build_body(target, base, names=names)
    own, theirs = place(body, target), place(body, base)
    assert all(list(parts.values()) == [1.0] for parts in own.values())
    values = [next(iter(parts)) for parts in place(build_body(base, base), base).values()]
    assert theirs["residual.0"] == {values[0]: 1.0}
    assert theirs["residual.3"] == {values[2]: 1.0}
    assert theirs["residual.6"] == {values[4]: 1.0}
    assert theirs["residual.1"] == pytest.approx({values[0]: 1 / 3, values[1]: 2 / 3})
