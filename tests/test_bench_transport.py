"""The benchmark of transport: its arithmetic, its data, and one trivial pair end to end."""

from __future__ import annotations

import math
from pathlib import Path

import bench_transport
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transport_pairs import build, catalogue
from transport_pairs.catalogue import Pair, Recipe
from transport_pairs.corpora import CHARACTERS, encode
from transport_pairs.domains import (
    IGNORED,
    MASKED,
    NEW_GLYPHS,
    TURNED,
    Text,
    domains,
    masked_token,
    next_token,
)
from transport_pairs.glyphs import PLAIN
from transport_pairs.scoring import (
    Bounds,
    Outcome,
    Score,
    means,
    share,
    shares,
    table,
)
from transport_pairs.shapes import FIELDS, FILLED, OUTLINED, draw
from transport_pairs.workers import chains

BOUNDS = Bounds(Score(3.0, 0.2), Score(1.0, 0.8), Score(0.5, 0.9), Score(2.5, 0.4))


def test_share_is_the_part_of_the_way() -> None:
    assert share(3.0, 3.0, 1.0) == 0.0
    assert share(3.0, 1.0, 1.0) == 1.0
    assert share(3.0, 2.5, 1.0) == pytest.approx(0.25)
    assert share(3.0, 3.5, 1.0) == pytest.approx(-0.25)


def test_no_share_of_no_gain() -> None:
    assert share(1.0, 0.5, 1.0) is None


def test_shares_of_an_outcome() -> None:
    found = shares(Outcome("fit", Score(2.0, 0.5), Score(1.0, 0.7)), BOUNDS)
    assert found.loss == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(0.5)
    assert found.forgetting == pytest.approx(0.25)


def test_a_new_head_is_measured_from_chance_and_forgets_nothing_known() -> None:
    bounds = Bounds(Score.of_chance(4), Score(0.0, 1.0))
    found = shares(Outcome("fit", Score(math.log(4) / 2, 0.625)), bounds)
    assert (found.loss, found.accuracy) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.forgetting is None


def test_tables_show_failures_and_what_auto_chose() -> None:
    outcomes = [
        Outcome("auto", Score(2.0, 0.5), Score(1.0, 0.7), used="fit", seconds=3.0),
        Outcome("fit+few", error="error: no"),
    ]
    text = table(BOUNDS, outcomes)
    assert "| auto (fit) | 2.000 | 0.500 | 0.50 | 0.50 | 1.000 | 0.25 | - | 3 |" in text
    assert "failed: error: no" in text


def test_means_count_failures_and_leave_them_out() -> None:
    good = Outcome("fit", Score(2.0, 0.5), Score(1.0, 0.7), evidence=0.4)
    text = means({"p": ("g", BOUNDS, [good]), "q": ("g", BOUNDS, [Outcome("fit", error="x")])})
    assert "| g | fit | 1/2 | 0.50 | 0.50 | 0.50 | 0.25 | 0.10 |" in text


def test_every_model_of_a_pair_has_a_recipe_and_a_known_start() -> None:
    recipes = catalogue.recipes()
    for pair in catalogue.pairs():
        assert set(pair.models.values()) <= recipes.keys(), pair.name
    for recipe in recipes.values():
        assert recipe.start is None or recipe.start in recipes
    assert {r.domain for r in recipes.values()} <= domains(None).keys()


def test_independent_bases_share_no_seed() -> None:
    bases = [r.seed for r in catalogue.recipes().values() if r.start is None]
    assert len(set(bases)) == len(bases)


def test_models_trained_at_once_need_none_of_another_group() -> None:
    recipes = catalogue.recipes()
    groups = chains(recipes, reversed(recipes))
    assert sorted(name for group in groups for name in group) == sorted(recipes)
    for group in groups:
        starts = [recipes[name].start for name in group]
        assert starts[0] is None and None not in starts[1:]
        assert all(start in group[:place] for place, start in enumerate(starts) if place)


def test_large_models_have_the_same_families_and_more_parameters() -> None:
    small, large = (build.PROFILES[name] for name in ("quick", "large"))
    few, many = (build.parameter_count(p.model("gpt")) for p in (small, large))
    assert many > 15 * few
    recipe = catalogue.recipes()["gpt-v1-s0"]
    assert small.apply(recipe) == recipe
    assert large.apply(recipe).rate == recipe.rate / large.width


def test_shapes_are_different_and_in_range() -> None:
    labels = torch.arange(len(FIELDS))
    for style in (FILLED, OUTLINED):
        images = draw(labels, style, torch.Generator().manual_seed(0))
        assert images.shape == (len(FIELDS), 1, 16, 16)
        assert -1 <= images.min() < images.max() <= 1
        assert torch.pdist(images.flatten(1)).min() > 1


def test_fonts_of_the_turned_task_are_no_base_s() -> None:
    assert not set(TURNED.fonts) & {*PLAIN.fonts, *NEW_GLYPHS.fonts}


def fake_text(folder: Path) -> Text:
    tokens = (np.arange(5000) % 90).astype(np.uint8)
    np.savez(folder / "corpus-x.npz", train=tokens, test=tokens[::-1])
    return Text({"x": 1.0}, folder)


def test_labels_of_text_are_the_next_tokens(tmp_path: Path) -> None:
    inputs, labels = next(next_token(fake_text(tmp_path)).batches("train", 4, 0))
    assert torch.equal(labels, (inputs + 1) % 90)
    inputs, labels = next(next_token(fake_text(tmp_path)).batches("test", 4, 0))
    assert torch.equal(labels, (inputs - 1) % 90)


def test_masked_tokens_are_the_labels(tmp_path: Path) -> None:
    inputs, labels = next(masked_token(fake_text(tmp_path)).batches("train", 8, 0))
    hidden = labels != IGNORED
    assert hidden[:, 1:].float().mean() == pytest.approx(MASKED, abs=0.1)
    assert not hidden[:, 0].any()
    assert (inputs[hidden] >= len(CHARACTERS)).all()
    assert (inputs[:, 1:][~hidden[:, 1:]] < len(CHARACTERS)).all()


def test_encoding_keeps_printable_ascii_only() -> None:
    assert [CHARACTERS[t] for t in encode("a\tbé\nc")] == ["a", "b", "\n", "c"]


def tiny_workshop(root: Path) -> tuple[build.Workshop, Pair]:
    """Return a pair of one-block models trained for a few steps."""
    workshop = build.Workshop(root)
    v1 = Recipe("tiny", "images-old", 3, 1e-3, 8, seed=1)
    v2 = Recipe("tiny", "images-new", 3, 1e-3, 8, seed=2)
    tuned = [Recipe("tiny", "outlines", 3, 1e-3, 8, seed=3, start=name) for name in ("v1", "v2")]
    workshop.recipes = dict(zip(("v1", "v2", "v1_ft", "v2_ft"), (v1, v2, *tuned), strict=True))
    names = {name: name for name in workshop.recipes}
    return workshop, Pair("tiny-outlines", names, "outlines", "images-new", "independent", 256)


def test_a_trivial_pair_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workshop, pair = tiny_workshop(tmp_path)
    folder = workshop.build(pair)
    changed = (folder / "v1.onnx").stat().st_mtime_ns
    assert workshop.build(pair) == folder
    assert (folder / "v1.onnx").stat().st_mtime_ns == changed, "what exists is kept"
    # B is A here, so that adding the task vector is all there is to recover.
    for file, other in (("v2", "v1"), ("v2_ft", "v1_ft")):
        (folder / f"{file}.onnx").write_bytes((folder / f"{other}.onnx").read_bytes())
    scale_task_vector(folder, 30.0)
    arguments = ["--pairs", str(tmp_path), "--no-build", "--methods", "naive"]
    assert bench_transport.main(arguments) == 0
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.startswith("| tiny, independent")]
    assert row.startswith("| tiny, independent | naive | 1/1 | 1.00 | 1.00 |")
    # Control: against another upper bound the share is another one.
    (folder / "v2.onnx").write_bytes((folder / "v1_ft.onnx").read_bytes())
    (folder / "v2_ft.onnx").write_bytes((folder / "v1.onnx").read_bytes())
    assert bench_transport.main(arguments) == 0
    assert row not in capsys.readouterr().out


def scale_task_vector(folder: Path, factor: float) -> None:
    """Make the few steps of fine-tuning count: theta_A + factor * (theta_Aft - theta_A)."""
    base, tuned = (onnx.load(folder / f"{name}.onnx") for name in ("v1", "v1_ft"))
    old = {w.name: numpy_helper.to_array(w) for w in base.graph.initializer}
    for weight in tuned.graph.initializer:
        value = numpy_helper.to_array(weight)
        if value.dtype == np.float32:
            moved = old[weight.name] + np.float32(factor) * (value - old[weight.name])
            weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
    for name in ("v1_ft", "v2_ft"):
        onnx.save(tuned, folder / f"{name}.onnx")
