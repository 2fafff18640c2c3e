"""A head that only the fine-tuned model has is moved into the target's basis and fitted again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from planted import edit_weights, noise, permuted
from zoo_fixture import zoo_model
from zoo_models.exporting import export
from zoo_models.modules import make_module

from graphrebase.io import read_model
from graphrebase.rebase import Prepared, Settings, fitting, prepare, rebase
from graphrebase.rebase import task as tasks
from graphrebase.rebase.heads import new_heads
from graphrebase.runtime import Session
from graphrebase.runtime.head_probes import FEWEST, Signs, generate_for_head
from graphrebase.runtime.synthetic import table_limit
from graphrebase.structure import find_structure
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


def divergence(model: Path, tuned: Path, inputs: Mapping[str, np.ndarray]) -> float:
    """Return the mean KL(tuned || model) of the logits."""
    logs = []
    for path in (tuned, model):
        logits = Session(path).run(inputs, outputs=["logits"])["logits"].astype(np.float64)
        logs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean())


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A and A_ft as above, B a permuted A with so much noise that the moved head misreads it."""
    folder = tmp_path_factory.mktemp("strangers")
    module, body = make_module("vit-cls", 0)[0], make_module("vit", 0)[0]
    body.model.load_state_dict(module.model.vit.state_dict(), strict=False)
    names = ("base", "exact", "finetuned", "clean", "target", "probes", "held")
    paths = {n: folder / f"{n}.onnx" for n in names}
    export(body, paths["base"], "ts17", "eager")
    export(module, paths["exact"], "ts17", "eager")
    edit_weights(paths["exact"], paths["finetuned"], lambda _, a: 1.3 * a)
    permuted(paths["base"], paths["clean"])
    edit_weights(paths["clean"], paths["target"], noise(0.6, 3))
    rng = np.random.default_rng(5)
    for name, count in (("probes", 80), ("held", 64)):
        paths[name] = folder / f"{name}.npz"
        images = rng.standard_normal((count, 3, 24, 24)).astype(np.float32)
        np.savez(paths[name], pixel_values=images)
    return paths


def settings(paths: Mapping[str, Path], method: str, *, given: bool = True) -> Settings:
    return Settings(method=method, probes=paths["probes"] if given else None)


@pytest.mark.parametrize("method", ["anchored", "fit", "auto"])
def test_a_new_head_is_fitted_again(
    strangers: dict[str, Path], tmp_path: Path, method: str
) -> None:
    models = (strangers[n] for n in ("base", "finetuned", "target"))
    output = tmp_path / "out.onnx"
    result = rebase(*models, output, settings(strangers, method))
    head = result.head
    assert head is not None and head.refitted and head.heads == ("head.pooled.0.weight",)
    assert head.lost is not None and head.control is not None and head.moved is not None
    assert head.lost < head.moved
    assert result.verdict.evidence is not None
    assert (result.method == "refit") == (head.kept == "control")
    stored = {p.key: p.value for p in onnx.load(output).metadata_props}
    assert json.loads(stored["graphrebase"])["new_head"]["kept"] == head.kept


def test_attention_brings_a_new_head_what_mlps_cannot(
    strangers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [strangers[n] for n in ("base", "finetuned", "target")]
    lost = []
    for attention in (True, False):
        monkeypatch.setattr(fitting, "NEW_HEAD", replace(fitting.NEW_HEAD, attention=attention))
        found = prepare(*models, settings(strangers, "fit"))
        changed = found.candidate.vector.folded.changes
        assert any(".attention.o." in role for role in changed) == attention
        assert found.trials is not None
        lost.append(found.trials.own.lost)
    assert lost[0] < lost[1]


def test_queries_and_keys_move_under_a_new_head(
    strangers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In proportion to what is asked for, and not at all under a head that B has."""
    models = [strangers[n] for n in ("base", "finetuned", "target")]
    found = {}
    for looks in (0.0, 1.0, 2.0):
        monkeypatch.setattr(fitting, "NEW_HEAD", replace(fitting.NEW_HEAD, looks=looks))
        changes = prepare(*models, settings(strangers, "fit")).candidate.vector.folded.changes
        found[looks] = {r: c for r, c in changes.items() if ".attention.q." in r}
    shared = prepare(models[0], strangers["clean"], models[2], settings(strangers, "fit"))
    assert not found[0.0]
    assert not [r for r in shared.candidate.vector.folded.changes if ".attention.q." in r]
    assert set(found[1.0]) == set(found[2.0]) and any(c.any() for c in found[1.0].values())
    for role, change in found[1.0].items():
        np.testing.assert_allclose(found[2.0][role], 2 * change, rtol=1e-5, atol=1e-7)


def test_auto_is_never_below_its_control(strangers: dict[str, Path], tmp_path: Path) -> None:
    models = [strangers[n] for n in ("base", "finetuned", "target")]
    auto, control = tmp_path / "auto.onnx", tmp_path / "control.onnx"
    rebase(*models, auto, settings(strangers, "auto"))
    found = prepare(*models, settings(strangers, "fit"))
    assert found.trials is not None
    found.trials.control.candidate.write(control, {})
    with np.load(strangers["held"]) as held:
        inputs = dict(held)
    scores = [divergence(p, strangers["finetuned"], inputs) for p in (auto, control)]
    assert scores[0] < 1.1 * scores[1]


def test_without_inputs_images_are_generated_and_nothing_is_promised(
    strangers: dict[str, Path],
) -> None:
    models = (strangers[n] for n in ("base", "finetuned", "target"))
    result = rebase(*models, None, settings(strangers, "auto", given=False))
    assert result.verdict.verdict == "unverified"
    assert result.head is not None and result.head.refitted
    assert result.head.by.endswith("generated probes left out of both")
    assert result.probes is not None and (result.probes.keep, result.probes.kind) == (0, "image")


def test_relatives_keep_the_moved_head_unless_inputs_say_otherwise(
    pair: tuple[Path, Path, Path],
) -> None:
    base, finetuned, _ = pair
    result = rebase(base, finetuned, base, None, Settings())
    assert result.method == "naive"
    assert (
        result.head is not None and not result.head.refitted and "relatives" in result.head.reason
    )


def test_a_pooler_belongs_to_the_head() -> None:
    base, tuned = (zoo_model(f"{n}-ts17-eager").path for n in ("bert", "bert-cls"))
    found = prepare(base, tuned, base, Settings(method="naive"))
    (head,) = new_heads(found.candidate)
    assert head.last == "head.pooled.1"
    stems = ("head.pooled.0", "head.pooled.1")
    assert set(head.roles) == {f"{s}.{p}" for s in stems for p in ("weight", "bias")}


@pytest.mark.parametrize("base", ["bert-mlm", "bert"])
def test_texts_are_drawn_towards_every_class(base: str) -> None:
    tuned = zoo_model("bert-cls-ts17-eager").path
    graph = find_structure(read_model(tuned)).graph
    models = {"base": zoo_model(f"{base}-ts17-eager").path, "finetuned": tuned}
    task = generate_for_head(lambda name: Session(models[name]), graph, seconds=5.0).task
    session = Session(tuned)
    mixed = {**task, "input_ids": np.random.default_rng(0).permuted(task["input_ids"], axis=None)}
    means = []
    for arrays in (task, mixed):
        logits = session.run(arrays)["logits"].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        means.append(logs[np.arange(len(logs)), np.arange(len(logs)) % 7].mean())
    assert means[0] > means[1]


@pytest.mark.parametrize(("room", "texts"), [(fitting.RECOMBINED, fitting.GIVEN_TEXTS), (0, 10)])
def test_a_fit_under_a_new_head_takes_recombined_texts(
    room: float, texts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "RECOMBINED", room)
    probing = _fit_on_texts(10, tmp_path).task.probing
    assert probing is not None and probing.options.attention
    assert probing.recombined == texts - 10 and len(probing.task["input_ids"]) == texts


def test_fits_that_judge_take_fewer_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "TEXTS", 80)
    monkeypatch.setattr(fitting, "GIVEN_TEXTS", 1100)
    made: list[tuple[int, float]] = []

    def fit(structures: object, probing: fitting.Probing, *rest: object) -> object:
        made.append((len(probing.task["input_ids"]), probing.options.ridge))
        return fitting.fit_models(structures, probing, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks, "fit_models", fit)
    assert _fit_on_texts(50, tmp_path).refitted
    ridge = fitting.NEW_HEAD.ridge
    assert len(made) > 2 and set(made[:-1]) == {(80, ridge)}
    assert made[-1] == (1100, ridge * fitting.FEW_TEXTS / 1100)


def _fit_on_texts(count: int, folder: Path) -> Prepared:
    """Return a fit under a head that the base lacks, on texts given."""
    base, tuned = (zoo_model(f"{n}-ts17-eager").path for n in ("bert", "bert-cls"))
    ids = np.random.default_rng(0).integers(5, 90, (count, 12))
    filled = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    made = {name: filled.get(name, np.ones_like(ids)) for name in Session(tuned).inputs}
    np.savez(folder / "probes.npz", **made)
    return prepare(base, tuned, base, Settings(method="fit", probes=folder / "probes.npz"))


def test_where_there_is_no_time_few_texts_are_written() -> None:
    tuned = zoo_model("bert-cls-ts17-eager").path
    graph = find_structure(read_model(tuned)).graph
    models = {"base": zoo_model("bert-mlm-ts17-eager").path, "finetuned": tuned}
    bias = np.zeros(table_limit(graph))
    bias[[7, 3]] = -9.0, -8.0
    said: list[str] = []
    task = generate_for_head(
        lambda name: Session(models[name]), graph, bias=bias, seconds=0.0, note=said.append
    ).task
    ids = task["input_ids"]
    assert len(ids) == FEWEST and " 1 of 25 steps" in said[0]
    assert (ids[:, 0] == 3).all() and not np.isin(ids[:, 1:], [7, 3]).any()


def test_a_masked_model_shows_which_tokens_have_a_function() -> None:
    bias = np.random.default_rng(0).standard_normal(101) - 0.1
    bias[[7, 3]] = -9.0, -8.0
    signs = Signs.of(bias)
    assert (signs.mask, signs.first, signs.silent) == (7, 3, [7, 3])
    assert Signs.of(None).silent == [] == Signs.of(bias[:5]).silent
