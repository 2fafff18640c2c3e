"""Exit codes, messages and JSON of the command line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from planted import plant
from typer.main import get_command
from zoo_fixture import zoo_model

from graphrebase.cli import app, main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in arguments])
    return int(exit_info.value.code or 0)


def rebase_arguments(base: Path, tuned: Path, target: Path, output: Path) -> tuple[object, ...]:
    return (
        *("rebase", "--base", base, "--finetuned", tuned, "--target", target),
        *("-o", output, "--method", "transfusion"),
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    made = plant(zoo_model("vit-cls-ts17-eager").path, tmp_path_factory.mktemp("pair"))
    return made.base, made.finetuned, made.target


def output_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["schema_version"] == 1
    return data


def test_rebase_json(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "out.onnx", tmp_path / "report.html"
    arguments = (*rebase_arguments(*pair, output), "--json", "--report", report)
    assert run(*arguments) == 0
    data = output_of(capsys)
    assert data["method"] == "transfusion" and data["lineage"] == "permuted"
    assert data["alignment"]["objective"] > 2 * data["alignment"]["null_mean"]
    assert data["alignment"]["score"] > 0.9 and data["alignment"]["beyond_chance"] > 0.9
    assert all(set(c) == {"moved", "carried", "copied", "refused"} for c in data["roles"].values())
    assert sum(c["moved"] for c in data["roles"].values()) == 40
    assert set(data["sha256"]) == {"base", "finetuned", "target", "output"}
    assert "<script" not in report.read_text() and "residual.0" in report.read_text()
    provenance = {p.key: p.value for p in onnx.load(output).metadata_props}["graphrebase"]
    assert json.loads(provenance)["sha256"]["base"] == data["sha256"]["base"]
    assert run(*arguments) == 6
    assert "--force" in capsys.readouterr().err
    assert run(*arguments, "--force") == 0


def test_stored_alignment_gives_the_same_bytes(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    stored = tmp_path / "alignment.safetensors"
    assert run("align", pair[0], pair[2], "-o", stored) == 0
    direct, reused = tmp_path / "direct.onnx", tmp_path / "reused.onnx"
    assert run(*rebase_arguments(*pair, direct)) == 0
    assert run(*rebase_arguments(*pair, reused), "--alignment", stored) == 0
    assert direct.read_bytes() == reused.read_bytes()
    swapped = (pair[2], pair[1], pair[0])
    wrong = tmp_path / "wrong.onnx"
    assert run(*rebase_arguments(*swapped, wrong), "--alignment", stored) == 4
    assert not wrong.exists()


def test_dry_run_writes_nothing(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    assert run(*rebase_arguments(*pair, tmp_path / "out.onnx"), "--dry-run") == 0
    assert list(tmp_path.iterdir()) == []


def test_inspect_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", zoo_model("llama-ts17-eager").path, "--json") == 0
    data = output_of(capsys)
    kinds = [g["kind"] for g in data["groups"]]
    assert {k: kinds.count(k) for k in set(kinds)} == {
        "residual": 1, "head": 2, "head_member": 2, "head_vo": 2, "mlp": 2,
    }  # fmt: skip
    attention = data["blocks"][0]
    assert (attention["heads"], attention["kv_heads"], attention["head_dim"]) == (4, 2, 8)
    reasons = {f["axis"]: f["reason"] for f in data["frozen"]}
    assert "rotary" in reasons["block.0.head_qk"]
    assert data["coverage"] > 0.99


def test_verify(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    assert run("permute", pair[0], "--random", "-o", other) == 0
    assert run("verify", pair[0], other) == 0
    assert run("verify", pair[0], other, "--structure") == 0
    assert run("verify", pair[0], pair[1]) == 5
    assert run("verify", pair[0], zoo_model("vit-cls-ts14-sdpa").path, "--structure") == 5


def test_evaluate(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = zoo_model("vit-cls-ts17-eager").inputs["large"]
    count = len(next(iter(inputs.values())))
    data = tmp_path / "data.npz"
    np.savez(data, **inputs, label=np.arange(count))
    capsys.readouterr()
    assert run("evaluate", pair[0], pair[1], "--data", data, "--json") == 0
    rows = output_of(capsys)["models"]
    assert [r["samples"] for r in rows] == [count, count]
    np.savez(data, **inputs)
    assert run("evaluate", pair[0], "--data", data) == 3


def test_evaluate_sweeps_over_alpha(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = zoo_model("vit-cls-ts17-eager").inputs["large"]
    data = tmp_path / "data.npz"
    np.savez(data, **inputs, label=np.zeros(len(next(iter(inputs.values()))), int))
    models = ("--base", pair[0], "--finetuned", pair[1], "--target", pair[2], "--data", data)
    sweep = ("evaluate", *models, "--method", "naive", "--alphas", "0,0.5")
    capsys.readouterr()
    assert run(*sweep, "--json", "--metric", "top-5") == 0
    found = output_of(capsys)
    assert [(r["name"], r["alpha"]) for r in found["models"]] == [
        *(("B", 0.0), ("B + naive", 0.5), ("A fine-tuned", None)),
    ]
    assert found["metrics"] == ["top_5"]
    assert run(*sweep) == 0
    assert "alpha" in capsys.readouterr().out
    for wrong in (
        ("evaluate", "--data", data),
        ("evaluate", "--base", pair[0], "--data", data),
        (*sweep, "--metric", "beauty"),
        (*sweep[:-1], "0,x"),
    ):
        assert run(*wrong) == 2


def poison(source: Path, output: Path) -> Path:
    model = onnx.load(source)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, output)
    return output


@pytest.mark.parametrize("position", [0, 1, 2])
def test_not_a_number_ends_with_5(
    pair: tuple[Path, Path, Path], position: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = list(pair)
    models[position] = poison(pair[position], tmp_path / "nan.onnx")
    assert run(*rebase_arguments(*models, tmp_path / "out.onnx")) == 5
    assert "NaN" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def bad_inputs(
    pair: tuple[Path, Path, Path], folder: Path
) -> dict[str, tuple[tuple[Path, ...], int]]:
    base, tuned, target = pair
    text = folder / "text.onnx"
    text.write_text("this is not a model")
    external = folder / "external.onnx"
    onnx.save(
        onnx.load(base), external, save_as_external_data=True, location="gone.bin",
        size_threshold=0,
    )  # fmt: skip
    (folder / "gone.bin").unlink()
    bert = zoo_model("bert-cls-ts17-eager").path
    return {
        "missing file": ((folder / "nowhere.onnx", tuned, target), 3),
        "not ONNX": ((text, tuned, target), 3),
        "missing external data": ((external, tuned, target), 3),
        "another architecture": ((base, tuned, bert), 4),
        "finetuned of another architecture": ((base, bert, target), 4),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("missing file", "not ONNX", "missing external data", "another architecture"),
        "finetuned of another architecture",
    ],
)
def test_bad_input_writes_nothing(
    case: str, pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, code = bad_inputs(pair, tmp_path)[case]
    output = tmp_path / "out.onnx"
    before = sorted(p.name for p in tmp_path.iterdir())
    assert run(*rebase_arguments(*models, output)) == code  # type: ignore[arg-type]
    message = capsys.readouterr().err
    assert "error:" in message and "try:" in message and "Traceback" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("rebase",),
        ("rebase", "--base"),
        ("nonsense",),
        ("inspect", "x", "--nope"),
        ("permute", "x", "-o", "y"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 2


def test_unknown_choices_are_usage_errors(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    for extra in (
        ("--method", "magic"),
        ("--residual", "none"),
        ("--template", "x"),
        ("--alpha", "nan"),
    ):
        assert run(*rebase_arguments(*pair, output), *extra) == 2
    assert run("inspect", pair[0], "--free", "everything") == 2


def test_output_over_an_input_is_refused(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(p, tmp_path / f"{i}.onnx")) for i, p in enumerate(pair)]
    before = [p.read_bytes() for p in copies]
    for copy in copies:
        assert run(*rebase_arguments(*copies, copy), "--force") == 6  # type: ignore[arg-type]
    assert [p.read_bytes() for p in copies] == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_refused_before_any_work(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert run(*rebase_arguments(*pair, locked / "out.onnx")) == 6
    assert run("permute", pair[0], "-o", locked / "out.onnx", "--random") == 6


def test_a_folder_that_cannot_be_written_to_is_no_bug(
    pair: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs this may be root, so the system's refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert run("permute", pair[0], "-o", tmp_path / "out.onnx", "--random") == 6


def test_probes_that_do_not_fit_are_refused_before_any_work(
    pair: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes, output = tmp_path / "probes.npz", tmp_path / "out.onnx"
    for arrays in ({"pixels": np.zeros((64, 3))}, {"pixel_values": np.zeros((64, 3))}):
        np.savez(probes, **arrays)
        assert run(*rebase_arguments(*pair, output), "--probes", probes) == 3
        assert str(probes) in capsys.readouterr().err
    assert not output.exists()


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "gone\x1b[2J.onnx") == 3
    message = capsys.readouterr().err
    assert "gone" in message and "\x1b" not in message


def test_every_command_and_option_has_help() -> None:
    group = get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.param_type_name == "argument"
