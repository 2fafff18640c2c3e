"""Labels: those of the data, or the next tokens where the model is causal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zoo_fixture import zoo_model

from graphrebase.errors import InputError
from graphrebase.runtime import Session, evaluate, read_labelled
from graphrebase.runtime.labels import next_tokens

IDS = np.random.default_rng(0).integers(0, 90, (3, 8))


def save(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_next_tokens_skip_padding() -> None:
    mask = np.ones_like(IDS)
    mask[0, 5:] = 0
    mask[1, :2] = 0
    labels = next_tokens("input_ids", {"input_ids": IDS, "attention_mask": mask})
    assert (labels[:, -1] == -100).all()
    np.testing.assert_array_equal(labels[2, :-1], IDS[2, 1:])
    np.testing.assert_array_equal(labels[0], [*IDS[0, 1:5], -100, -100, -100, -100])
    np.testing.assert_array_equal(labels[1], [-100, -100, *IDS[1, 3:], -100])


def test_a_causal_model_needs_no_labels(tmp_path: Path) -> None:
    session = Session(zoo_model("gpt2-ts17-eager").path)
    names = {n: np.ones_like(IDS) if "mask" in n else IDS for n in session.inputs}
    data = read_labelled(save(tmp_path, **names), session)
    assert "next tokens" in data.source
    scores = evaluate(session, data.inputs, data.labels)
    assert (scores.kind, scores.samples) == ("tokens", 3 * 7)
    assert scores.values["perplexity"] == pytest.approx(np.exp(scores.cross_entropy))
    own = read_labelled(save(tmp_path, **names, label=np.zeros_like(IDS)), session)
    assert own.source == "label" and not own.labels.any()


@pytest.mark.parametrize("family", ["bert-mlm", "vit-cls"])
def test_control_other_models_need_labels(family: str, tmp_path: Path) -> None:
    entry = zoo_model(f"{family}-ts17-eager")
    with pytest.raises(InputError, match="no labels"):
        read_labelled(save(tmp_path, **entry.inputs["small"]), Session(entry.path))
