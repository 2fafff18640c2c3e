"""A head that only the fine-tuned model has is moved into the target's basis."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import edit_weights, permuted
from zoo_models.exporting import export
from zoo_models.modules import make_module

from graphrebase.errors import MismatchError
from graphrebase.rebase import Settings, rebase
from graphrebase.verify import verify_function


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A: encoder without head; A_ft: the same encoder with a classifier; B: A permuted."""
    folder = tmp_path_factory.mktemp("head")
    module, body = make_module("vit-cls", 0)[0], make_module("vit", 0)[0]
    body.model.load_state_dict(module.model.vit.state_dict(), strict=False)
    paths = tuple(folder / f"{n}.onnx" for n in ("base", "finetuned", "target"))
    export(body, paths[0], "ts17", "eager")
    export(module, folder / "exact.onnx", "ts17", "eager")
    edit_weights(folder / "exact.onnx", paths[1], lambda _, a: 1.02 * a)
    permuted(paths[0], paths[2])
    return paths[0], paths[1], paths[2]


def test_head_is_carried(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, finetuned, target = pair
    output = tmp_path / "out.onnx"
    result = rebase(base, finetuned, target, output, Settings(method="transfusion"))
    carried = [e.role for e in result.plan if e.action == "carried"]
    assert carried == ["head.pooled.0.weight", "head.pooled.0.bias"]
    assert verify_function(finetuned, output)["passed"]


def test_target_template_has_no_place_for_it(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, finetuned, target = pair
    output = tmp_path / "out.onnx"
    with pytest.raises(MismatchError, match="no place"):
        rebase(base, finetuned, target, output, Settings(method="transfusion", template="target"))
    assert not output.exists()
