"""A planted alignment is found exactly; the result is B plus the moved task vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import edit_weights, noise, permuted, plant, planted_map
from zoo_fixture import zoo_model

from graphrebase.align import transport
from graphrebase.io import read_model, structure_difference
from graphrebase.rebase import Settings, rebase
from graphrebase.structure import find_structure
from graphrebase.verify import verify_function

FAMILIES = [
    *("vit-cls", "deit-cls", "bert-cls", "gpt2", "llama", "distilbert-cls", "encoder-bf-pre"),
    *("gpt-neox", "mixtral"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("residual", ["per-point", "shared"])
@pytest.mark.parametrize("intra", ["split", "paper"])
def test_planted_alignment_is_found_and_applied(
    family: str, residual: str, intra: str, tmp_path: Path
) -> None:
    base = zoo_model(f"{family}-ts17-eager").path
    pair = plant(base, tmp_path, intra=intra)
    output = tmp_path / "out.onnx"
    settings = Settings(method="transfusion", residual=residual, intra=intra)
    result = rebase(pair.base, pair.finetuned, pair.target, output, settings)
    for space, found in result.alignment.maps.items():
        np.testing.assert_array_equal(found, planted_map(pair.alignment, space), err_msg=space)
    made, tuned, goal = (
        find_structure(read_model(path)) for path in (output, pair.finetuned, pair.target)
    )
    for name, role in pair.structure.roles.items():
        if not any(role.axes):
            continue
        delta = tuned.read(name) - pair.structure.read(name)
        moved = transport(delta, role.axes, pair.alignment, pair.structure.spaces)
        expected = goal.read(name) + moved
        np.testing.assert_allclose(made.read(name), expected, rtol=0, atol=1e-6, err_msg=name)


def test_only_weights_differ_from_the_template(tmp_path: Path) -> None:
    pair = plant(zoo_model("vit-cls-ts17-eager").path, tmp_path)
    output = tmp_path / "out.onnx"
    before = {p: p.read_bytes() for p in (pair.base, pair.finetuned, pair.target)}
    rebase(pair.base, pair.finetuned, pair.target, output, Settings(method="transfusion"))
    assert structure_difference(read_model(pair.finetuned), read_model(output)) == []
    assert {p: p.read_bytes() for p in before} == before
    target = zoo_model("vit-cls-ts14-sdpa").path
    assert structure_difference(read_model(target), read_model(output)) != []


@pytest.mark.parametrize(
    ("family", "exporters"),
    [
        ("vit-cls", ("ts17-eager", "dy18-eager", "ts14-sdpa")),
        ("bert-cls", ("ts14-eager", "ts17-sdpa", "dy18-eager")),
        ("llama", ("dy23-sdpa", "ts17-sdpa", "ts14-eager")),
        ("encoder-bf-pre", ("ts17-eager", "ts14-sdpa", "ts17-sdpa")),
    ],
)
@pytest.mark.parametrize("template", ["finetuned", "target"])
def test_without_noise_the_rebased_model_computes_what_the_finetuned_one_does(
    family: str, exporters: tuple[str, str, str], template: str, tmp_path: Path
) -> None:
    base, tuned, goal = (zoo_model(f"{family}-{e}").path for e in exporters)
    finetuned, target, output = (tmp_path / f"{n}.onnx" for n in ("finetuned", "target", "out"))
    edit_weights(tuned, finetuned, lambda _, a: 1.05 * a)
    permuted(goal, target)
    settings = Settings(method="transfusion", template=template)
    rebase(base, finetuned, target, output, settings)
    assert verify_function(finetuned, output)["passed"]
    naive = tmp_path / "naive.onnx"
    rebase(base, finetuned, target, naive, Settings(method="naive", template=template))
    assert not verify_function(finetuned, naive)["passed"]


def test_alpha_scales_the_task_vector(tmp_path: Path) -> None:
    pair = plant(zoo_model("gpt2-ts17-eager").path, tmp_path)
    made = {}
    for alpha in (0.0, 0.5, 1.0):
        output = tmp_path / f"out_{alpha}.onnx"
        settings = Settings(method="transfusion", alpha=alpha)
        rebase(pair.base, pair.finetuned, pair.target, output, settings)
        made[alpha] = find_structure(read_model(output))
    goal = find_structure(read_model(pair.target))
    for name in pair.structure.roles:
        zero, half, one = (made[a].read(name) for a in (0.0, 0.5, 1.0))
        np.testing.assert_allclose(zero, goal.read(name), atol=1e-7)
        np.testing.assert_allclose(half, (zero + one) / 2, atol=1e-6)


def test_auto_keeps_naive_for_relatives(tmp_path: Path) -> None:
    base = zoo_model("vit-cls-ts17-eager").path
    tuned, relative = tmp_path / "finetuned.onnx", tmp_path / "relative.onnx"
    edit_weights(base, tuned, noise(0.05, 3))
    edit_weights(base, relative, noise(0.5, 4))
    result = rebase(base, tuned, relative, None, Settings())
    assert (result.method, result.lineage) == ("naive", "same lineage")
    pair = plant(base, tmp_path)
    result = rebase(pair.base, pair.finetuned, pair.target, None, Settings())
    assert (result.method, result.lineage) == ("transfusion", "permuted")
