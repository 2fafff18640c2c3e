"""Sequences sampled from a language model: as many as time allows, by the model's own odds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from runtime.runtime_models import FLOAT, INT64, graph_of, model

from graphrebase.graph import Graph
from graphrebase.runtime import Session
from graphrebase.runtime.text_probes import FEWEST, SEQUENCES, SHORTEST, sample

VOCABULARY = 80


def next_of(folder: Path, batch: int | str) -> tuple[Session, Graph]:
    """Return a model that is sure that token t is followed by t + 1."""
    table = 50 * np.roll(np.eye(VOCABULARY, dtype=np.float32), 1, axis=1)
    proto = model(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])],
        [("ids", INT64, [batch, "length"])],
        [("logits", FLOAT, [batch, "length", VOCABULARY])],
        {"table": table},
    )
    onnx.save(proto, folder / "next.onnx")
    return Session(folder / "next.onnx"), graph_of(proto, folder)


def drawn(folder: Path, seconds: float, batch: int | str = "batch") -> np.ndarray:
    session, graph = next_of(folder, batch)
    rng = np.random.default_rng(0)
    made = sample(session, "ids", graph, rng, seconds=seconds, length=20, note=lambda _: None)
    return made["ids"]


def test_every_token_follows_from_the_one_before(tmp_path: Path) -> None:
    ids = drawn(tmp_path, seconds=60)
    assert ids.shape == (SEQUENCES, 20)
    assert ((ids[:, 1:] - ids[:, :-1]) % VOCABULARY == 1).all()


@pytest.mark.parametrize("batch", [1, 7])
def test_a_batch_that_is_baked_in_gives_as_many(batch: int, tmp_path: Path) -> None:
    ids = drawn(tmp_path, seconds=60, batch=batch)
    assert len(ids) % batch == 0 and len(ids) // batch == -(-SEQUENCES // batch)
    assert ((ids[:, 1:] - ids[:, :-1]) % VOCABULARY == 1).all()
    if batch == 1:  # a sequence does not depend on those drawn with it
        np.testing.assert_array_equal(ids, drawn(tmp_path, seconds=60))


def test_without_time_sequences_are_few_and_short(tmp_path: Path) -> None:
    assert drawn(tmp_path, seconds=1e-9).shape == (FEWEST, SHORTEST)
