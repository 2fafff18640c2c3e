"""Sweeps: one alignment, every alpha, and the shares of what fine-tuning the target gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphrebase.demo import example_folder
from graphrebase.errors import UsageError
from graphrebase.evaluation import Release, evaluate_models, evaluate_sweep
from graphrebase.rebase import Settings, rebase
from graphrebase.report import evaluate_tables

NAMES = ("v1", "v1_ft", "v2_lineage", "v2_lineage_ft")
MODELS = tuple(example_folder() / f"{name}.onnx" for name in NAMES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A part of the example's task and of its domain."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("task", "domain"):
        with np.load(example_folder() / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", **{n: a[:120] for n, a in arrays.items()})
    return folder / "task.npz", folder / "domain.npz"


@pytest.fixture(scope="module")
def sweep(data: tuple[Path, Path]) -> dict[tuple[str, float | None], dict[str, object]]:
    found = evaluate_sweep(
        Release(*MODELS), data[0], Settings("naive"), alphas=(0, 0.5, 1), keep_data=data[1]
    )
    assert evaluate_tables(found)
    return {(row["name"], row["alpha"]): row for row in found["models"]}


def test_rows(sweep: dict[tuple[str, float | None], dict[str, object]]) -> None:
    assert list(sweep) == [
        ("B", 0.0),
        ("B + naive", 0.5),
        ("B + naive", 1),
        ("A fine-tuned", None),
        ("B fine-tuned", None),
    ]


def test_shares_begin_at_b_and_end_at_its_own_finetuning(
    sweep: dict[tuple[str, float | None], dict[str, object]],
) -> None:
    for key, share in (("B", 0.0), 0.0), (("B fine-tuned", None), 1.0):
        row = sweep[key]  # type: ignore[index]
        assert row["recovered"] == {"cross_entropy": share, "accuracy": share}
        assert row["forgetting"]["share"] == pytest.approx(share)  # type: ignore[index]
    between = sweep["B + naive", 1.0]["recovered"]["cross_entropy"]  # type: ignore[index]
    assert 0.5 < between < 1.0


def test_evidence_predicts_the_share(
    sweep: dict[tuple[str, float | None], dict[str, object]],
) -> None:
    for alpha in (0.5, 1.0):
        row = sweep["B + naive", alpha]
        recovered = row["recovered"]["cross_entropy"]  # type: ignore[index]
        assert row["evidence"] == pytest.approx(recovered, abs=0.15)
    assert sweep["B", 0.0]["evidence"] == pytest.approx(0.0)


def test_an_alpha_of_the_sweep_is_the_model_that_rebase_writes(
    sweep: dict[tuple[str, float | None], dict[str, object]],
    data: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    output = tmp_path / "half.onnx"
    rebase(*MODELS[:3], output, Settings("naive", alpha=0.5))
    row = evaluate_models([output], data[0], keep_data=data[1])["models"][0]
    own = sweep["B + naive", 0.5]
    assert row["cross_entropy"] == pytest.approx(own["cross_entropy"])
    assert row["domain"] == pytest.approx(own["domain"])
    assert row["cross_entropy"] != pytest.approx(sweep["B + naive", 1.0]["cross_entropy"])
    assert row["recovered"] is None and row["forgetting"] is None


def test_what_makes_no_sense_is_refused(data: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="unknown metric"):
        evaluate_models(MODELS[:1], data[0], metrics=["beauty"])
    with pytest.raises(UsageError, match="does not suit"):
        evaluate_models(MODELS[:1], data[0], metrics=["mean-squared-error"])
    with pytest.raises(UsageError, match="alphas"):
        evaluate_sweep(Release(*MODELS), data[0], Settings("naive"), alphas=())
    shown = evaluate_models(MODELS[:1], data[0], metrics=["top-5"])
    assert shown["metrics"] == ["top_5"] and "accuracy" in shown["models"][0]
