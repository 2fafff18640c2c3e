"""Every rebase with probes is judged without labels, and `auto` keeps what does better."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from planted import edit_weights, noise
from rebase.test_fit import probes_for
from zoo_fixture import zoo_model

from graphrebase.errors import OutputError
from graphrebase.rebase import Settings, prepare, rebase
from graphrebase.rebase.trial import Candidate
from graphrebase.runtime import Session

Models = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A, A_ft, and a B that has nothing of A."""
    folder = tmp_path_factory.mktemp("strangers")
    base = zoo_model("vit-cls-ts17-eager").path
    tuned, target = folder / "tuned.onnx", folder / "target.onnx"
    edit_weights(base, tuned, noise(0.3, 2))
    edit_weights(base, target, noise(5.0, 3))
    probes_for(base, folder / "probes.npz", 48, 0)
    probes_for(base, folder / "few.npz", 8, 0)
    return base, tuned, target


def settings(models: Models, probes: str = "probes", **options: Any) -> Settings:
    folder = models[1].parent
    return Settings(probes=folder / f"{probes}.npz", keep_data=folder / "few.npz", **options)


def test_relatives_are_worth_deploying_and_provenance_says_so(
    strangers: Models, tmp_path: Path
) -> None:
    base, tuned, _ = strangers
    target, output = tmp_path / "target.onnx", tmp_path / "out.onnx"
    edit_weights(base, target, noise(0.02, 3))
    result = rebase(base, tuned, target, output, settings(strangers))
    assert result.method == "naive" and result.verdict.verdict == "worth deploying"
    entry = next(p for p in onnx.load(output).metadata_props if p.key == "graphrebase")
    record = json.loads(entry.value)
    assert record["verdict"] == "worth deploying"
    assert record["evidence"] == pytest.approx(result.verdict.evidence, abs=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "target.onnx"]


def test_control_plain_addition_on_strangers_is_not(strangers: Models) -> None:
    result = rebase(*strangers, None, settings(strangers, method="naive"))
    assert result.verdict.evidence is not None and result.verdict.evidence < 0.5
    assert (result.verdict.samples, result.verdict.scored) == (48, 48)


def test_a_fit_is_judged_then_made_again_on_all_probes(strangers: Models) -> None:
    result = rebase(*strangers, None, settings(strangers, method="fit"))
    assert result.probes is not None
    assert (result.probes.task, result.probes.held_out, result.probes.refitted) == (48, 48, True)
    assert set(result.verdict.rivals) == {"naive"}


def test_too_few_probes_are_not_judged_but_all_used(strangers: Models) -> None:
    result = rebase(*strangers, None, settings(strangers, "few", method="fit"))
    assert result.verdict.verdict == "unverified" and "too few" in result.verdict.reason
    assert result.probes is not None
    assert (result.probes.task, result.probes.refitted) == (8, False)


@pytest.mark.parametrize(("shift", "method"), [(0.1, "naive"), (-0.1, "fit")])
def test_auto_keeps_what_the_evidence_prefers(
    shift: float, method: str, strangers: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = sys.modules["graphrebase.rebase.judging"]
    plain = room.judge  # type: ignore[attr-defined]

    def biased(candidates: Mapping[str, Candidate], *rest: Any, **options: Any) -> Any:
        found = plain(candidates, *rest, **options)
        if "fit" not in candidates:
            return found
        own = found["fit"]
        return {**found, "naive": replace(own, lost=own.lost - shift * own.start)}

    monkeypatch.setattr(room, "judge", biased)
    found = prepare(*strangers, settings(strangers))
    assert found.alignment.method == method
    assert ("plain addition does better" in found.task.why) == (method == "naive")
    asked = prepare(*strangers, settings(strangers, method="fit"))
    assert asked.alignment.method == "fit"


def test_a_large_model_is_fitted_once(strangers: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["graphrebase.rebase.given"], "CHEAP", 1.0)
    result = rebase(*strangers, None, settings(strangers, method="fit"))
    assert result.probes is not None
    assert (result.probes.task, result.probes.held_out, result.probes.refitted) == (32, 16, False)


def test_an_output_that_exists_is_refused_before_any_work(
    strangers: Models, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    stages: list[str] = []
    with pytest.raises(OutputError):
        rebase(
            *strangers, output, settings(strangers), progress=lambda stage, *_: stages.append(stage)
        )
    assert stages == ["reading"] and output.read_bytes() == b"precious"


def test_progress_of_a_fit_rises_to_its_end(strangers: Models) -> None:
    steps: list[tuple[int, int]] = []

    def note(stage: str, done: int, of: int) -> None:
        if stage == "fitting":
            steps.append((done, of))

    rebase(*strangers, None, settings(strangers, "few", method="fit"), progress=note)
    done = [count for count, _ in steps]
    assert done == sorted(done) and len(set(of for _, of in steps)) == 1
    assert done[-1] == steps[-1][1] and done[-2] >= 0.8 * done[-1]  # not by a leap at the end


def test_scale_is_chosen_after_the_fit(strangers: Models, tmp_path: Path) -> None:
    found = prepare(*strangers, settings(strangers, "few", method="fit"))
    held = probes_for(strangers[0], tmp_path / "held.npz", 3, 1)
    outputs = []
    for alpha in (0.0, 1.0):
        with found.candidate.at(alpha).running() as session:
            outputs.append(session.run({n: held[n] for n in session.inputs})[session.outputs[0]])
    target = Session(strangers[2])
    before = target.run({n: held[n] for n in target.inputs})[target.outputs[0]]
    np.testing.assert_allclose(outputs[0], before, atol=1e-5)
    assert np.abs(outputs[1] - before).max() > 1e-3
