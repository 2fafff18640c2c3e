"""A head that only the fine-tuned model has is moved into the target's basis."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from planted import edit_weights, permuted
from zoo_models.exporting import export
from zoo_models.modules import make_module

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


def test_head_is_put_on_the_targets_graph(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, finetuned, target = pair
    output = tmp_path / "out.onnx"
    result = rebase(
        base, finetuned, target, output, Settings(method="transfusion", template="target")
    )
    carried = [e.role for e in result.plan if e.action == "carried"]
    assert carried == ["head.pooled.0.weight", "head.pooled.0.bias"]
    assert verify_function(finetuned, output)["passed"]
    before, after = (onnx.load(p).graph for p in (target, output))
    kept = [node.SerializeToString() for node in before.node]
    own = [node.SerializeToString() for node in after.node]
    stayed = own[:-3]  # but the token's number, the node that picks it, and the classifier
    assert stayed == [node for node in kept if node in stayed]
    assert [x.name for x in after.output] == [x.name for x in onnx.load(finetuned).graph.output]
    assert not list(tmp_path.glob(".graphrebase-*"))


def test_control_without_the_fine_tuning_it_is_another_function(
    pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, finetuned, target = pair
    output = tmp_path / "out.onnx"
    settings = Settings(method="transfusion", template="target", alpha=0.0)
    rebase(base, finetuned, target, output, settings)
    assert not verify_function(finetuned, output)["passed"]
