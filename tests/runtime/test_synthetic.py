"""Synthetic inputs are reproducible, stay inside the tables, and have two sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from runtime.runtime_models import FLOAT, INT64, embedding, graph_of, model

from graphrebase.errors import UsageError, VerificationError
from graphrebase.runtime import Session, length_limit, synthetic_inputs, table_limit, two_sizes


def _passthrough(*inputs: tuple[str, int, list[int | str | None]]) -> Session:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
    outputs = [(f"{name}_out", kind, shape) for name, kind, shape in inputs]
    return Session(model(nodes, inputs, outputs).SerializeToString())


SESSION = _passthrough(
    ("input_ids", INT64, ["batch", "length"]),
    ("attention_mask", INT64, ["batch", "past + length"]),
    ("token_type_ids", INT64, ["batch", "length"]),
    ("position_ids", INT64, ["batch", "length"]),
    ("use_cache", TensorProto.BOOL, [1]),
    ("past_key", FLOAT, ["batch", 2, "past", 4]),
)


def test_values_follow_names_and_types() -> None:
    found = synthetic_inputs(SESSION, batch=2, length=5, seed=0, vocabulary=7)
    assert {name: array.shape for name, array in found.items()} == {
        "input_ids": (2, 5),
        "attention_mask": (2, 10),
        "token_type_ids": (2, 5),
        "position_ids": (2, 5),
        "use_cache": (1,),
        "past_key": (2, 2, 5, 4),
    }
    assert 0 <= found["input_ids"].min() < found["input_ids"].max() < 7
    assert (found["attention_mask"] == 1).all()
    assert (found["token_type_ids"] == 0).all()
    assert (found["position_ids"] == np.arange(5)).all()
    assert found["use_cache"].all()
    assert found["past_key"].std() > 0.5
    assert all(array.dtype == SESSION.inputs[name].dtype for name, array in found.items())
    SESSION.run(found)


def test_the_seed_decides() -> None:
    first, again, other = (
        synthetic_inputs(SESSION, batch=2, length=5, seed=seed) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["input_ids"], other["input_ids"])


@pytest.mark.parametrize("bad", [{"batch": 0}, {"length": 0}, {"vocabulary": 0}])
def test_sizes_have_to_be_positive(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        synthetic_inputs(SESSION, **{"batch": 1, "length": 1, "seed": 0, **bad})


def test_limits_are_those_of_the_tables(tmp_path: Path) -> None:
    graph = graph_of(embedding(11, 8), tmp_path)
    assert table_limit(graph) == 11
    assert length_limit(graph) == 8  # not 2: the types are one constant


def test_without_tables_there_is_no_limit(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    graph = graph_of(model(nodes, [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]), tmp_path)
    assert table_limit(graph) == 64
    assert length_limit(graph) is None


def test_a_position_input_limits_the_length_not_the_vocabulary(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["w", "position_ids"], ["y"])]
    proto = model(
        nodes,
        [("position_ids", INT64, ["n", "s"])],
        [("y", FLOAT, ["n", "s", 2])],
        {"w": np.ones((5, 2), np.float32)},
    )
    graph = graph_of(proto, tmp_path)
    assert (table_limit(graph), length_limit(graph)) == (64, 5)


@pytest.mark.parametrize(
    ("positions", "shapes"), [(40, [(1, 6), (3, 9)]), (7, [(1, 6), (3, 7)]), (3, [(1, 2), (3, 3)])]
)
def test_two_sizes_stay_inside_the_tables(
    positions: int, shapes: list[tuple[int, int]], tmp_path: Path
) -> None:
    proto = embedding(5, positions)
    session = Session(proto.SerializeToString())
    sets = two_sizes(session, graph_of(proto, tmp_path), seed=0)
    assert [inputs["ids"].shape for inputs in sets] == shapes
    assert max(int(inputs["ids"].max()) for inputs in sets) < 5
    with pytest.raises(VerificationError):  # the control: past the table it does not run
        session.run(synthetic_inputs(session, batch=1, length=positions + 1, seed=0, vocabulary=5))


def _baked(shape: list[int], tmp_path: Path) -> list[tuple[int, ...]]:
    """Return the shapes found for a model that adds a constant, its sizes declared dynamic."""
    weights = {"target": np.array(shape)}
    nodes = [helper.make_node("Reshape", ["x", "target"], ["y"])]
    proto = model(nodes, [("x", FLOAT, ["batch", "length"])], [("y", FLOAT, ["a", "b"])], weights)
    sets = two_sizes(Session(proto.SerializeToString()), graph_of(proto, tmp_path), seed=0)
    assert not np.array_equal(sets[0]["x"].ravel()[:2], sets[1]["x"].ravel()[:2])
    return [inputs["x"].shape for inputs in sets]


def test_sizes_baked_in_are_found(tmp_path: Path) -> None:
    assert _baked([-1, 6], tmp_path) == [(1, 6), (3, 6)]
    assert _baked([2, 5], tmp_path) == [(2, 5), (2, 5)]


def test_a_model_that_never_runs_raises_its_first_failure(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"x \(1, 6\)"):
        _baked([97, 89], tmp_path)


def test_a_model_of_nan_proves_nothing(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 3])],
        [("y", FLOAT, ["n", 3])],
        {"w": np.full(3, np.nan, np.float32)},
    )
    with pytest.raises(VerificationError, match="no finite"):
        two_sizes(Session(proto.SerializeToString()), graph_of(proto, tmp_path), seed=0)
