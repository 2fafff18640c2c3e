"""Fit: the updated target moves as the base did, on probes given or generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from planted import edit_weights, noise
from zoo_fixture import zoo_model

from graphrebase.errors import InputError, UsageError
from graphrebase.io import read_model, structure_difference
from graphrebase.rebase import Settings, align_models, rebase
from graphrebase.rebase.body import build_body
from graphrebase.rebase.runs import Runs
from graphrebase.runtime import Session, fills_masks
from graphrebase.runtime.batches import predict
from graphrebase.runtime.probes import generate
from graphrebase.structure import find_structure


def probes_for(model: Path, output: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    session = Session(model)
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in session.inputs.items():
        shape = (count, *(d if isinstance(d, int) else 12 for d in spec.shape[1:]))
        if spec.dtype.kind == "f":
            arrays[name] = rng.standard_normal(shape).astype(spec.dtype)
        else:
            ids = rng.integers(0, 90, shape)
            arrays[name] = np.ones_like(ids) if "mask" in name else ids
    np.savez(output, **arrays)
    return arrays


def error(model: Path, wanted: np.ndarray, inputs: dict[str, np.ndarray]) -> float:
    session = Session(model)
    found = session.run({n: inputs[n] for n in session.inputs})[session.outputs[0]]
    return float(np.mean((found - wanted) ** 2))


@pytest.mark.parametrize("family", ["vit-cls", "gpt2", "llama", "bert-mlm"])
def test_a_relative_moves_as_the_base_did(family: str, tmp_path: Path) -> None:
    base = zoo_model(f"{family}-ts17-eager").path
    tuned, target, output = (tmp_path / f"{n}.onnx" for n in ("tuned", "target", "out"))
    edit_weights(base, tuned, noise(0.1, 2))
    edit_weights(base, target, noise(0.02, 3))
    probes_for(base, tmp_path / "probes.npz", 64, 0)
    held = probes_for(base, tmp_path / "held.npz", 16, 1)
    settings = Settings(
        method="fit", probes=tmp_path / "probes.npz", keep_data=tmp_path / "held.npz"
    )
    before = {path: path.read_bytes() for path in (base, tuned, target)}
    result = rebase(base, tuned, target, output, settings)
    assert result.method == "fit"
    assert {path: path.read_bytes() for path in before} == before
    assert structure_difference(read_model(tuned), read_model(output)) == []
    session = Session(tuned)
    wanted = session.run({n: held[n] for n in session.inputs})[session.outputs[0]]
    assert error(output, wanted, held) < 0.6 * error(target, wanted, held)


def test_what_does_not_move_in_the_base_stays_in_the_target(tmp_path: Path) -> None:
    base = zoo_model("vit-cls-ts17-eager").path
    target, output = tmp_path / "target.onnx", tmp_path / "out.onnx"
    edit_weights(base, target, noise(1.0, 3))
    held = probes_for(base, tmp_path / "probes.npz", 32, 0)
    settings = Settings(
        method="fit", probes=tmp_path / "probes.npz", keep_data=tmp_path / "probes.npz"
    )
    rebase(base, base, target, output, settings)
    session = Session(target)
    wanted = session.run({n: held[n] for n in session.inputs})[session.outputs[0]]
    assert error(output, wanted, held) < 1e-8
    assert error(base, wanted, held) > 1e-4


@pytest.mark.parametrize("family", ["vit-cls", "gpt2", "llama"])
def test_a_layer_adds_its_last_map_of_what_it_is_said_to_read(family: str, tmp_path: Path) -> None:
    path = zoo_model(f"{family}-ts17-eager").path
    structure = find_structure(read_model(path), residual="per-point")
    body, arrays = build_body(structure, structure), probes_for(path, tmp_path / "x.npz", 4, 0)
    models = {"base": structure, "finetuned": structure, "target": structure}
    runs = Runs(body, models, arrays, None, attention=True)
    (streams,) = runs.streams("target", kept=False)
    layers = body.towers[0].solved(attention=True)
    assert len(layers) == 2 * len(body.towers[0].solved(attention=False))
    for layer in layers:
        writer = layer.writer
        ((given, after),) = runs.updated(writer.stem, {}, kept=False)
        weight = np.asarray(structure.read(writer.weight), np.float64)
        added = given @ weight.reshape(len(weight), -1).T
        if writer.bias in structure.roles:
            added = added + structure.read(writer.bias)
        np.testing.assert_allclose(streams[layer.before] + added, after, atol=1e-4)
        turned = np.roll(given, 1, axis=1) @ weight.reshape(len(weight), -1).T
        assert not np.allclose(streams[layer.before] + turned, after, atol=1e-4)


@pytest.mark.parametrize("family", ["whisper", "swin"])
def test_streams_of_one_model_may_have_tokens_of_their_own(family: str) -> None:
    """Encoder and decoder, or the stages of a hierarchical model; rows and weights agree."""
    entry = zoo_model(f"{family}-ts17-eager")
    structure = find_structure(read_model(entry.path), residual="per-point")
    models = {"base": structure, "finetuned": structure, "target": structure}
    body = build_body(structure, structure)
    runs = Runs(body, models, entry.inputs["small"], None)
    (streams,) = runs.streams("target", kept=False)
    (weights,) = runs.weights(kept=False, last=True)
    rows = {point: len(streams[point]) for point in streams}
    assert {point: len(weights[point]) for point in rows} == rows
    assert len(set(rows.values())) > 1


def test_a_model_of_one_sample_at_a_time_is_run_in_that() -> None:
    """RotaryEmbedding of onnxruntime refuses more, though the export declares any batch."""
    entry = zoo_model("llama-dy23-sdpa")
    structure = find_structure(read_model(entry.path), residual="per-point")
    ids = np.random.default_rng(0).integers(0, 90, (3, 12))
    models = {"base": structure, "finetuned": structure, "target": structure}
    runs = Runs(build_body(structure, structure), models, {"input_ids": ids}, None)
    assert runs.batches[False] == 3
    found = [streams["residual.0"] for streams in runs.streams("target", kept=False)]
    assert [len(rows) for rows in found] == [12, 12, 12]
    assert not np.allclose(found[0], found[1])


def _weights(runs: Runs, *, kept: bool, last: bool) -> np.ndarray:
    return np.concatenate([w["residual.0"] for w in runs.weights(kept=kept, last=last)])


def test_exports_of_other_batches_are_fitted_alike(tmp_path: Path) -> None:
    """Few sequences, so that others are generated beside them: the same, drawn one by one."""
    base = zoo_model("gpt2-ts17-eager").path
    edit_weights(base, tmp_path / "free.tuned.onnx", noise(0.1, 2))
    edit_weights(base, tmp_path / "free.target.onnx", noise(5.0, 3))
    (tmp_path / "free.base.onnx").write_bytes(base.read_bytes())
    held = probes_for(base, tmp_path / "probes.npz", 5, 0)
    given = tmp_path / "probes.npz"
    found = []
    for kind in ("free", "single"):
        paths = [tmp_path / f"{kind}.{n}.onnx" for n in ("base", "tuned", "target")]
        for path in paths if kind == "single" else ():
            proto = onnx.load(path.with_name(path.name.replace("single", "free")))
            for value in proto.graph.input:
                value.type.tensor_type.shape.dim[0].dim_value = 1
            onnx.save(proto, path)
        settings = Settings(method="fit", probes=given, keep_data=given)
        output = tmp_path / f"{kind}.onnx"
        rebase(*paths, output, settings)
        session = Session(output)
        found.append(predict(session, {n: held[n] for n in session.inputs}, 0, 5, 5))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3 * np.abs(found[0]).max())


def test_padding_and_unread_tokens_weigh_less(tmp_path: Path) -> None:
    path = zoo_model("bert-cls-ts17-eager").path
    structure = find_structure(read_model(path), residual="per-point")
    ids = np.arange(36).reshape(3, 12)
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    models = {"base": structure, "finetuned": structure, "target": structure}
    runs = Runs(
        build_body(structure, structure),
        models,
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids[:, :7]},
        batch=2,
    )
    longer = _weights(runs, kept=True, last=False)
    assert longer.size == sum(len(s["residual.0"]) for s in runs.streams("base", kept=True)) == 21
    plain = _weights(runs, kept=False, last=False)
    np.testing.assert_array_equal(plain, mask.reshape(-1))
    streams = list(runs.streams("target", kept=False))
    assert sum(len(s["residual.0"]) for s in streams) == plain.size
    last = _weights(runs, kept=False, last=True).reshape(3, 12)
    np.testing.assert_allclose(last[0, 0], 1.0)
    np.testing.assert_allclose(last[0, 1:], 0.1)


@pytest.mark.parametrize(
    ("family", "kind"), [("vit-cls", "image"), ("gpt2", "text"), ("bert-mlm", "text")]
)
def test_probes_are_made_from_the_signature(family: str, kind: str) -> None:
    path = zoo_model(f"{family}-ts17-eager").path
    graph = find_structure(read_model(path)).graph
    one, two = (generate(lambda _: Session(path), graph, seed=1, seconds=1.0) for _ in range(2))
    assert one.kind == kind
    for arrays, again in ((one.task, two.task), (one.keep, two.keep)):
        session = Session(path)
        assert np.isfinite(session.run(arrays)[session.outputs[0]]).all()
        assert set(arrays) == set(session.inputs) == set(again)


def test_sampled_text_is_likelier_than_random_text() -> None:
    path = zoo_model("gpt2-ts17-eager").path
    session, graph = Session(path), find_structure(read_model(path)).graph

    def likelihood(ids: np.ndarray, arrays: dict[str, np.ndarray]) -> float:
        logits = session.run({**arrays, "input_ids": ids})[session.outputs[0]].astype(float)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return float(np.take_along_axis(logs[:, :-1], ids[:, 1:, None], -1).mean())

    task = generate(lambda _: session, graph).task
    mixed = np.random.default_rng(0).permuted(task["input_ids"], axis=None)
    assert likelihood(task["input_ids"], task) > likelihood(mixed, task)


def test_auto_fits_strangers(tmp_path: Path) -> None:
    base = zoo_model("vit-cls-ts17-eager").path
    tuned, target = tmp_path / "tuned.onnx", tmp_path / "target.onnx"
    edit_weights(base, tuned, noise(0.05, 2))
    edit_weights(base, target, noise(5.0, 3))
    probes_for(base, tmp_path / "probes.npz", 8, 0)
    given = {"probes": tmp_path / "probes.npz", "keep_data": tmp_path / "probes.npz"}
    assert rebase(base, tuned, target, None, Settings(**given)).method == "fit"
    shared = rebase(base, tuned, target, None, Settings(residual="shared", **given))
    assert (shared.method, "per residual point" in shared.why) == ("anchored", True)


def test_auto_does_not_fit_models_that_fill_masks_in(tmp_path: Path) -> None:
    base = zoo_model("bert-mlm-ts17-eager").path
    tuned, target = tmp_path / "tuned.onnx", tmp_path / "target.onnx"
    edit_weights(base, tuned, noise(0.05, 2))
    edit_weights(base, target, noise(5.0, 3))
    result = rebase(base, tuned, target, None, Settings())
    assert (result.method, "fill masks in" in result.why) == ("anchored", True)


@pytest.mark.parametrize(
    ("family", "masked"), [("bert-mlm", True), ("gpt2", False), ("bert-cls", False)]
)
def test_which_models_fill_masks_in(family: str, masked: bool) -> None:
    path = zoo_model(f"{family}-ts17-eager").path
    assert fills_masks(Session(path), find_structure(read_model(path)).graph) is masked


def test_auto_needs_no_model_that_runs(tmp_path: Path) -> None:
    """Probes are no reason to fail where onnxruntime refuses a model; `fit` itself says so."""
    base = zoo_model("vit-cls-ts17-eager").path
    target = tmp_path / "target.onnx"
    edit_weights(base, target, noise(30.0, 3))
    broken = onnx.load(target)
    broken.opset_import.append(helper.make_opsetid("nobody", 1))
    output = broken.graph.output[0].name
    broken.graph.node.append(helper.make_node("Unknown", [output], ["more"], domain="nobody"))
    broken.graph.output.append(helper.make_empty_tensor_value_info("more"))
    onnx.save(broken, target)
    probes_for(base, tmp_path / "probes.npz", 64, 0)
    settings = Settings(probes=tmp_path / "probes.npz")
    result = rebase(base, base, target, tmp_path / "out.onnx", settings)
    assert result.method == "anchored"
    assert "fit was not possible: onnxruntime refuses the model" in result.why
    assert "cannot be judged" in result.verdict.reason
    with pytest.raises(InputError, match="refuses"):
        rebase(base, base, target, None, replace(settings, method="fit"))


@pytest.mark.parametrize("method", ["auto", "anchored", "fit"])
def test_probes_that_do_not_fit_are_bad_input(method: str, tmp_path: Path) -> None:
    base = zoo_model("gpt2-ts17-eager").path
    ids = {"many": np.full((20, 12), 101), "long": np.ones((20, 41), np.int64)}
    for name, reason in (("many", "'input_ids' holds 101"), ("long", "41 tokens, the .* on 40")):
        np.savez(tmp_path / "bad.npz", input_ids=ids[name])
        for given in ("probes", "keep_data"):
            settings = replace(Settings(method=method), **{given: tmp_path / "bad.npz"})
            with pytest.raises(InputError, match=reason) as refusal:
                rebase(base, base, base, None, settings)
            assert refusal.value.where == str(tmp_path / "bad.npz") and refusal.value.hint


def test_tokens_of_a_decoder_are_not_made_up(tmp_path: Path) -> None:
    base = zoo_model("t5-ts17-eager").path
    arrays = probes_for(base, tmp_path / "all.npz", 20, 0)
    np.savez(tmp_path / "some.npz", input_ids=arrays["input_ids"])
    with pytest.raises(InputError, match="the probes lack the input 'decoder_input_ids'"):
        rebase(base, base, base, None, Settings(probes=tmp_path / "some.npz"))
    arrays.pop("attention_mask")
    np.savez(tmp_path / "some.npz", **arrays)
    rebase(base, base, base, None, Settings(probes=tmp_path / "some.npz"))


def test_what_fit_cannot_use_is_refused(tmp_path: Path) -> None:
    base = zoo_model("vit-cls-ts17-eager").path
    with pytest.raises(UsageError):
        align_models(base, base, Settings(method="fit"))
    with pytest.raises(UsageError):
        rebase(base, base, base, None, Settings(method="fit", residual="shared"))
    np.savez(tmp_path / "other.npz", something=np.ones((3, 2)))
    settings = Settings(
        method="fit", probes=tmp_path / "other.npz", keep_data=tmp_path / "other.npz"
    )
    with pytest.raises(InputError):
        rebase(base, base, base, None, settings)
