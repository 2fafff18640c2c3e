"""Layers that need one order or basis for several: shared weights, experts."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import edit_weights, noise
from zoo_fixture import zoo_model

from graphrebase.errors import MismatchError, UsageError
from graphrebase.rebase import Settings, rebase
from graphrebase.rebase.fitting import ProbeSource, Probing


@pytest.mark.parametrize(
    ("family", "reason"), [("albert", "share their weights"), ("mixtral", "experts")]
)
def test_anchored_refuses_them(family: str, reason: str, tmp_path: Path) -> None:
    base = zoo_model(f"{family}-ts17-eager").path
    edit_weights(base, tmp_path / "tuned.onnx", noise(0.05, 1))
    edit_weights(base, tmp_path / "target.onnx", noise(3.0, 2))
    models = (base, tmp_path / "tuned.onnx", tmp_path / "target.onnx")
    with pytest.raises(MismatchError, match=reason):
        rebase(*models, tmp_path / "out.onnx", Settings(method="anchored"))


def test_auto_takes_orders_instead(tmp_path: Path) -> None:
    base = zoo_model("albert-ts17-eager").path
    edit_weights(base, tmp_path / "tuned.onnx", noise(0.05, 1))
    edit_weights(base, tmp_path / "target.onnx", noise(30.0, 2))
    models = (base, tmp_path / "tuned.onnx", tmp_path / "target.onnx")
    result = rebase(*models, tmp_path / "out.onnx", Settings())
    assert result.method in ("transfusion", "naive") and result.output is not None
    assert "neither fit nor anchored is possible: layers share their weights" in result.why


@pytest.mark.parametrize(("family", "made"), [("albert", 0), ("mixtral", 0), ("llama", 1)])
def test_probes_are_made_only_for_what_can_be_fitted(
    family: str, made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get(source: ProbeSource) -> Probing:
        asked.append(source)
        raise UsageError("no probes here")

    monkeypatch.setattr(ProbeSource, "get", get)
    base = zoo_model(f"{family}-ts17-eager").path
    edit_weights(base, tmp_path / "tuned.onnx", noise(0.05, 1))
    edit_weights(base, tmp_path / "target.onnx", noise(30.0, 2))
    models = (base, tmp_path / "tuned.onnx", tmp_path / "target.onnx")
    rebase(*models, tmp_path / "out.onnx", Settings())
    assert len(asked) == made
