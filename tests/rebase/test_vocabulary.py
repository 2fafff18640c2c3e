"""Tables of different lengths: rows matched where they correspond, others kept from the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from planted import edit_weights, noise
from zoo_fixture import zoo_model

from graphrebase.errors import InputError, MismatchError
from graphrebase.rebase import Settings, rebase
from graphrebase.runtime import Session
from graphrebase.runtime.vocabulary import TokenMap, Vocabularies, read_token_map

OLD, NEW = 101, 110
PLACES = np.random.default_rng(0).permutation(NEW)[:OLD]
"""Where the tokens of the old vocabulary are in the new one."""


def extended(source: Path, output: Path, *, positions: int = 0) -> None:
    """Write a language model with its tokens in other places, and new ones between them."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if OLD in array.shape and array.ndim == 2:
            axis = array.shape.index(OLD)
            other = np.random.default_rng(1).standard_normal((NEW, array.shape[1 - axis]))
            other[PLACES] = np.moveaxis(array, axis, 0)
            array = np.moveaxis(other, 0, axis)
        if positions and "wpe" in tensor.name:
            array = array[:positions]
        tensor.CopyFrom(numpy_helper.from_array(array.astype(array.dtype), tensor.name))
        if array.dtype == np.float64:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[-1].Clear()
    onnx.save(model, output)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabulary")
    found = {"base": zoo_model("gpt2-ts17-eager").path}
    found |= {name: folder / f"{name}.onnx" for name in ("tuned", "target", "relative")}
    edit_weights(found["base"], found["tuned"], noise(0.1, 2))
    extended(found["base"], found["target"], positions=48)
    edit_weights(found["target"], found["relative"], noise(0.02, 3))
    found["map"] = folder / "map.npz"
    np.savez(found["map"], a=np.arange(OLD), b=PLACES)
    return found


def logits(model: Path, ids: np.ndarray) -> np.ndarray:
    session = Session(model)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return session.run(inputs)[session.outputs[0]]


def test_relatives_of_another_vocabulary(models: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    settings = Settings(vocab_map=models["map"])
    result = rebase(models["base"], models["tuned"], models["target"], output, settings)
    assert (result.method, result.template) == ("naive", "target")
    ids = np.random.default_rng(5).integers(0, OLD, (3, 9))
    wanted = logits(models["tuned"], ids)
    np.testing.assert_allclose(logits(output, PLACES[ids])[..., PLACES], wanted, atol=1e-4)
    assert np.abs(logits(models["target"], PLACES[ids])[..., PLACES] - wanted).max() > 1e-2
    tables = [
        {x.name: numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer}
        for path in (models["target"], output)
    ]
    before, after = (next(a for n, a in t.items() if "wte" in n) for t in tables)
    new = np.setdiff1d(np.arange(NEW), PLACES)
    np.testing.assert_array_equal(after[new], before[new])
    assert np.abs(after[PLACES] - before[PLACES]).max() > 1e-3


def test_a_fit_reads_both_vocabularies(models: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, size in (("probes", OLD), ("keep", NEW)):
        ids = rng.integers(0, size, (24, 12))
        np.savez(tmp_path / f"{name}.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    settings = Settings(
        probes=tmp_path / "probes.npz",
        keep_data=tmp_path / "keep.npz",
        vocab_map=models["map"],
        method="fit",
    )
    result = rebase(models["base"], models["tuned"], models["relative"], None, settings)
    assert (result.method, result.template) == ("fit", "target")
    assert result.verdict.evidence is not None and result.verdict.evidence > 0.3


def test_other_vocabularies_need_a_map(models: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(MismatchError) as error:
        rebase(models["base"], models["tuned"], models["target"], output, Settings())
    assert "--vocab-map" in error.value.hint
    settings = Settings(vocab_map=models["map"], template="finetuned")
    with pytest.raises(MismatchError, match="tables"):
        rebase(models["base"], models["tuned"], models["target"], output, settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.arange(3)},
        {"a": np.arange(3), "b": np.arange(4)},
        {"a": np.arange(3), "b": np.array([0, 1, 1])},
        {"a": np.arange(3), "b": np.array([0.0, 1.0, 2.0])},
        {"a": np.arange(3), "b": np.array([0, -1, 2])},
    ],
)
def test_bad_maps_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "map.npz", **arrays)
    with pytest.raises(InputError):
        read_token_map(tmp_path / "map.npz")


def test_rows_outside_the_tables_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "map.npz", a=np.array([OLD]), b=np.array([0]))
    with pytest.raises(InputError, match="row 101"):
        rebase(
            models["base"], models["tuned"], models["target"], None,
            Settings(vocab_map=tmp_path / "map.npz"),
        )  # fmt: skip


@pytest.mark.parametrize(("given", "most"), [("probes", OLD), ("keep_data", NEW)])
def test_inputs_are_of_the_vocabulary_of_their_model(
    given: str, most: int, models: dict[str, Path], tmp_path: Path
) -> None:
    """Probes are the fine-tuned model's, keep data the target's; the other reads them mapped."""
    np.savez(tmp_path / "x.npz", input_ids=np.full((2, 8), most))
    settings = replace(Settings(vocab_map=models["map"]), **{given: tmp_path / "x.npz"})
    with pytest.raises(InputError, match=f"holds {most}, .* a table of {most} rows"):
        rebase(models["base"], models["tuned"], models["target"], None, settings)


def test_tokens_go_there_and_back() -> None:
    both = Vocabularies("ids", TokenMap(np.array([0, 2]), np.array([3, 1])), (3, 4))
    new, known = both.to_new({"ids": np.array([[0, 1, 2]]), "mask": np.ones((1, 3))})
    assert new["ids"][0, [0, 2]].tolist() == [3, 1]
    assert known is not None and known.tolist() == [[True, False, True]]
    old, back = both.to_old(new)
    assert old["ids"][0, [0, 2]].tolist() == [0, 2] and back is not None and back.all()
    assert both.shared.tolist() == [False, True, False, True]
    assert both.common(np.arange(4.0), new=True).tolist() == [3, 1]
    assert both.in_new_columns(np.array([5.0, 6.0, 7.0])).tolist() == [0, 7, 0, 5]
    with pytest.raises(InputError):
        both.to_new({"ids": np.array([[3]])})
