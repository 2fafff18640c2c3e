"""Orthogonal transport: exact where the symmetry is exact, and planted rotations are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from planted import edit_weights, noise
from zoo_fixture import zoo_model

from graphrebase.align import Alignment, load, save, transport
from graphrebase.align.anchored import find_anchored, move
from graphrebase.align.folding import Folded, fold, unfold
from graphrebase.errors import MismatchError
from graphrebase.io import read_model, structure_difference
from graphrebase.rebase import Settings, align_models, rebase
from graphrebase.rebase.body import build_body
from graphrebase.rebase.reader import Reader
from graphrebase.runtime import Session
from graphrebase.structure import Structure, find_structure
from graphrebase.verify import permute_model, verify_function

PRE_NORM = ["phi", "vit-cls", "deit-cls", "llama", "encoder-bf-pre"]
ALL = [*PRE_NORM, "gpt2", "bert-mlm", "bert-cls", "distilbert-cls", "llama-tied", "clip"]


def structure(path: Path, residual: str = "per-point") -> Structure:
    return find_structure(read_model(path), residual=residual)


def stranger(base: Path, output: Path, seed: int) -> Path:
    """Write a model of the same architecture whose weights have nothing to do with the first."""
    edit_weights(base, output, noise(3.0, seed))
    return output


def write(source: Structure, values: dict[str, np.ndarray], output: Path) -> None:
    """Write a copy of a model with some roles replaced."""
    model = onnx.load(source.model.path)
    arrays = {t.name: t for t in model.graph.initializer}
    for role, value in values.items():
        view = source.roles[role].view
        stored = np.array(numpy_helper.to_array(arrays[view.tensor]), np.float64)
        view.write(stored, value)
        new = numpy_helper.from_array(stored.astype(np.float32), view.tensor)
        arrays[view.tensor].CopyFrom(new)
    onnx.save(model, output)


def moved_model(source: Structure, other: Structure, maps, output: Path, *, skip="") -> None:
    """Write A in B's basis: its folded weights moved, its norms without gain and bias."""
    body = build_body(source, other, residual="shared")
    read, values = Reader(source), {}
    for name, role in source.roles.items():
        if role.kind == "norm":
            values[name] = np.full(role.view.shape, float(name.endswith("gain")))
        elif role.kind == "embedding" or name.startswith("other"):
            axes = tuple(a if a in maps else None for a in role.axes)
            if any(axes):
                values[name] = transport(read(name), axes, Alignment(maps, "x"), body.spaces)
    plain = Reader(source)
    for stem, linear in body.linears.items():
        if stem == skip:
            continue
        moved = move(fold(linear, plain), linear, maps, body)
        values[linear.weight] = moved.weight
        if linear.bias in source.roles:
            values[linear.bias] = moved.bias
    write(source, values, output)


@pytest.mark.parametrize("family", PRE_NORM)
def test_a_moved_by_its_own_alignment_computes_what_it_computes(
    family: str, tmp_path: Path
) -> None:
    base = zoo_model(f"{family}-ts17-eager").path
    other = stranger(base, tmp_path / "b.onnx", 1)
    a, b = structure(base, "shared"), structure(other, "shared")
    body = build_body(a, b, residual="shared")
    maps, _ = find_anchored(body, Reader(a), Reader(b), rounds=2)
    moved_model(a, b, maps, tmp_path / "moved.onnx")
    assert verify_function(base, tmp_path / "moved.onnx")["passed"]
    first = body.towers[0].layers[0]
    moved_model(a, b, maps, tmp_path / "control.onnx", skip=first.linears[0].stem)
    assert not verify_function(base, tmp_path / "control.onnx")["passed"]


@pytest.mark.parametrize("family", ["vit-cls", "gpt2", "bert-mlm"])
def test_unfolding_undoes_folding(family: str) -> None:
    source = structure(zoo_model(f"{family}-ts17-eager").path)
    read = Reader(source)
    for linear in build_body(source, source).linears.values():
        rng = np.random.default_rng(0)
        weight = read(linear.weight)
        bias = np.zeros(weight.shape[: linear.outputs])
        change = Folded(rng.standard_normal(weight.shape), rng.standard_normal(bias.shape))
        plain = unfold(linear, change, read)
        values = {linear.weight: weight + plain.weight, linear.bias: plain.bias}
        values[linear.bias] = plain.bias + (bias if (b := read(linear.bias)) is None else b)
        again = fold(linear, lambda role, v=values: v.get(role, read(role))) - fold(linear, read)
        expected = change.weight
        if linear.norm is not None and linear.norm.centred:
            expected = expected - expected.mean(axis=-1, keepdims=True)
        if linear.centred:
            expected = expected - expected.mean(axis=0)
        np.testing.assert_allclose(again.weight, expected, atol=1e-9)


@pytest.mark.parametrize("family", ALL)
def test_the_own_base_is_recognised(family: str, tmp_path: Path) -> None:
    base = zoo_model(f"{family}-ts17-eager").path
    tuned = tmp_path / "tuned.onnx"
    edit_weights(base, tuned, noise(0.05, 2))
    output = tmp_path / "out.onnx"
    result = rebase(base, tuned, base, output, Settings(method="anchored"))
    assert result.alignment.details is not None
    assert result.alignment.details.score > 0.999
    assert structure_difference(read_model(tuned), read_model(output)) == []
    for space, found in result.alignment.maps.items():
        if found.dtype == np.float64:
            eye = np.eye(found.shape[-1]) if found.ndim > 1 else 1.0
            np.testing.assert_allclose(found, np.broadcast_to(eye, found.shape), atol=1e-3)
        else:
            np.testing.assert_array_equal(
                found, np.broadcast_to(np.arange(found.shape[-1]), found.shape), err_msg=space
            )


def test_the_stored_alignment_gives_the_same_model(tmp_path: Path) -> None:
    base = zoo_model("gpt2-ts17-eager").path
    other, tuned = stranger(base, tmp_path / "b.onnx", 1), tmp_path / "tuned.onnx"
    edit_weights(base, tuned, noise(0.05, 2))
    settings = Settings(method="anchored")
    save(align_models(base, other, settings)[0], tmp_path / "maps")
    assert load(tmp_path / "maps").maps["residual.1"].dtype == np.float64
    for name, stored in (("one", None), ("two", tmp_path / "maps")):
        rebase(base, tuned, other, tmp_path / f"{name}.onnx", settings, alignment=stored)
    one, two = (structure(tmp_path / f"{name}.onnx") for name in ("one", "two"))
    for role in one.roles:
        np.testing.assert_array_equal(one.read(role), two.read(role))


def test_permute_refuses_an_alignment_of_rotations(tmp_path: Path) -> None:
    base = zoo_model("vit-cls-ts17-eager").path
    other = stranger(base, tmp_path / "b.onnx", 1)
    save(align_models(base, other, Settings(method="anchored"))[0], tmp_path / "maps")
    with pytest.raises(MismatchError):
        permute_model(base, tmp_path / "out.onnx", alignment=tmp_path / "maps", free=("latent",))


def one_table(source: Path, output: Path) -> Path:
    """Write a model that fills masks in, its output reading the table of its tokens itself."""
    model = onnx.load(source)
    roles = structure(source).roles
    table, copy = (roles[n].view.tensor for n in ("embedding.input_ids", "head.tokens.1.weight"))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(arrays[copy], arrays[table].T)
    (old,) = (t for t in model.graph.initializer if t.name == copy)
    model.graph.initializer.remove(old)
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", [table], [copy]))
    onnx.save(model, output)
    return output


@pytest.mark.parametrize("method", ["anchored", "fit"])
def test_output_that_reads_the_table_is_behind_the_head(method: str, tmp_path: Path) -> None:
    copied = zoo_model("bert-mlm-ts17-eager").path
    base = one_table(copied, tmp_path / "base.onnx")
    bodies = [build_body(structure(path), structure(path)) for path in (base, copied)]
    assert [[h.stem for h in b.towers[0].heads] for b in bodies] == [["head.tokens.0"]] * 2
    tuned, target = tmp_path / "tuned.onnx", tmp_path / "target.onnx"
    edit_weights(base, tuned, noise(0.05, 2))
    stranger(base, target, 3)
    ids = np.random.default_rng(0).integers(5, 90, (6, 12))
    filled = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    probes = {name: filled.get(name, np.ones_like(ids)) for name in Session(base).inputs}
    np.savez(tmp_path / "probes.npz", **probes)
    settings = Settings(method=method, probes=tmp_path / "probes.npz")
    rebase(base, tuned, target, tmp_path / "out.onnx", settings)
    old, new = structure(target), structure(tmp_path / "out.onnx")
    role = "embedding.input_ids"
    assert np.abs(new.read(role) - old.read(role)).max() > 0.0
