"""Train, export and measure the example that ships: two releases of a base and a fine-tune.

`python tools/make_release_pair.py [--out DIR] [--quick] [--threads N]` trains six small vision
transformers from fixed seeds, writes them with their evaluation data and a README to DIR
(`graphrebase/example`), and prints what onnxruntime measures on the written files.

    v1 ----------------> v1_ft            rendered glyphs, then handwritten digits
    v2 (own seed) -----> v2_ft            more fonts, stronger distortions; the upper bound
    v2_lineage (of v1) -> v2_lineage_ft   v1 trained further on v2's data

The digits '0'..'9' are ten of the classes of the glyphs, so all models share one head. A run on
another processor or with another number of threads sums in another order: expect figures that
are close, not equal bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import ModelProto, numpy_helper
from transformers import ViTConfig, ViTForImageClassification
from transport_pairs.domains import shuffled
from transport_pairs.exporting import OPSETS, OUTPUT, export
from transport_pairs.glyphs import (
    CLASSES,
    HELD_OUT,
    IMAGE,
    PLAIN,
    RICH,
    Batch,
    Style,
    digit_split,
    glyph_batches,
)
from transport_pairs.models import Model
from transport_pairs.training import train

INPUT, OPSET = "pixel_values", OPSETS["ts17"]
EXAMPLE = Path(__file__).resolve().parent.parent / "graphrebase" / "example"


# ------------------------------------------------------------------------------------ model
def make_classifier() -> Model:
    """Return a pre-norm vision transformer with a class token and a linear head, untrained."""
    sizes: dict[str, Any] = dict(
        image_size=IMAGE,
        patch_size=4,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=len(CLASSES),
        initializer_range=0.05,
        attn_implementation="eager",
    )
    return Model(ViTForImageClassification(ViTConfig(**sizes)), (INPUT,))


# --------------------------------------------------------------------------------- training
@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model comes to be."""

    start: str | None  # the model it continues; None: random weights
    data: Style | None  # glyphs of a style; None: the handwritten digits
    steps: int
    rate: float  # peak learning rate
    batch: int
    seed: int


PRETRAIN = Recipe(None, PLAIN, steps=1200, rate=2e-3, batch=128, seed=1)
FINETUNE = Recipe("v1", None, steps=200, rate=3e-4, batch=64, seed=10)
Recipes = Mapping[str, Recipe]
RECIPES: Recipes = {
    "v1": PRETRAIN,
    "v1_ft": FINETUNE,
    "v2": replace(PRETRAIN, data=RICH, steps=2500, seed=2),
    "v2_ft": replace(FINETUNE, start="v2"),
    "v2_lineage": replace(PRETRAIN, start="v1", data=RICH, steps=1000, rate=1e-3, seed=3),
    "v2_lineage_ft": replace(FINETUNE, start="v2_lineage"),
}


def make(recipe: Recipe, trained: Mapping[str, Model], train_digits: Batch) -> Model:
    """Follow a recipe; the model it continues is in `trained`."""
    torch.manual_seed(recipe.seed)
    model = make_classifier()
    if recipe.start:
        model.load_state_dict(trained[recipe.start].state_dict())
    if recipe.data:
        batches = glyph_batches(recipe.data, recipe.batch, recipe.seed)
    else:
        batches = shuffled(train_digits, recipe.batch, recipe.seed)
    train(model, batches, recipe.steps, recipe.rate)
    return model


# ----------------------------------------------------------------------------------- export
def write_data(data: Batch, path: Path) -> Batch:
    """Write an evaluation set, its grey values rounded to 256 levels; return it as written."""
    images = ((data[0] + 1) * 127.5).round() / 127.5 - 1
    arrays = {INPUT: images.numpy().astype(np.float32), "label": data[1].numpy()}
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return images, data[1]


README = f"""# The example that ships

Six small vision transformers, trained and exported by `tools/make_release_pair.py` (a few minutes
on a processor, fixed seeds), and the data to judge them by. They are toys: what is measured on them
shows how the tool works, not what it does at scale.

* **Model.** Pre-norm ViT, {{parameters:,}} float32 parameters: patches of 4, width 64, 4 layers,
  4 heads, MLP 192. Exported by `torch.onnx.export` (TorchScript exporter, opset {OPSET}): input
  `{INPUT}` (batch, 1, {IMAGE}, {IMAGE}) in -1..1, output `{OUTPUT}` (batch, {len(CLASSES)}).
* **Pre-training data.** {len(CLASSES)} digits, letters and symbols in fonts that come with
  matplotlib, bright on dark, distorted at random, every image drawn anew. v1 saw {len(PLAIN.fonts)}
  fonts, distorted mildly; v2's domain is {len(RICH.fonts)} fonts, thicker strokes, distorted more.
* **Task.** The 8 x 8 handwritten digits bundled with scikit-learn (UCI optical recognition of
  handwritten digits, test part), enlarged to {IMAGE} x {IMAGE}: {HELD_OUT} held out for evaluation,
  the rest for fine-tuning. The ten digits are classes 0 to 9 of the same head.
* `task.npz`: held-out digits. `domain.npz`: {HELD_OUT} glyphs of v2's domain, drawn with a seed
  that no training used. Both hold `{INPUT}` (float32) and `label` (int64).

Accuracy of the torch models:

| file | made from | training | bytes | task | domain |
|---|---|---|---|---|---|
{{rows}}
"""


def readme(models: Mapping[str, Model], recipes: Recipes, data: list[Batch], out: Path) -> str:
    """Describe the folder: provenance, sizes, and accuracies measured here, in torch."""
    rows = []
    for name, model in models.items():
        recipe = recipes[name]
        what = {PLAIN: "v1's glyphs", RICH: "v2's glyphs", None: "digits"}[recipe.data]
        with torch.no_grad():
            right = [(model(x).argmax(1) == y).float().mean().item() for x, y in data]
        cells = [f"`{name}.onnx`", recipe.start or "random weights"]
        cells += [f"{recipe.steps} x {recipe.batch} {what}, seed {recipe.seed}"]
        cells += [f"{(out / f'{name}.onnx').stat().st_size:,}", *(f"{v:.3f}" for v in right)]
        rows.append(f"| {' | '.join(cells)} |")
    parameters = sum(weight.numel() for weight in next(iter(models.values())).parameters())
    return README.format(parameters=parameters, rows="\n".join(rows))


# ---------------------------------------------------------------------------------- measure
def add_naively(base: ModelProto, old: ModelProto, tuned: ModelProto) -> ModelProto:
    """Return `base + tuned - old`, weight by weight; the graphs must have equal weight names."""
    result = ModelProto()
    result.CopyFrom(base)
    parts = [{w.name: w for w in model.graph.initializer} for model in (old, tuned)]
    if any(part.keys() != {w.name for w in base.graph.initializer} for part in parts):
        raise ValueError("the exports name their weights differently: they cannot be added")
    for weight in result.graph.initializer:
        value = numpy_helper.to_array(weight)
        before, after = (numpy_helper.to_array(part[weight.name]) for part in parts)
        weight.CopyFrom(numpy_helper.from_array(value + after - before, weight.name))
    return result


def score(model: ModelProto, path: Path) -> tuple[float, float]:
    """Return cross-entropy (nats) and accuracy of a model on an npz file, by onnxruntime."""
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
    with np.load(path) as data:
        (logits,) = session.run([OUTPUT], {INPUT: data[INPUT]})
        labels = torch.from_numpy(data["label"])
    logits = torch.from_numpy(logits)
    right = logits.argmax(1) == labels
    return F.cross_entropy(logits, labels).item(), right.float().mean().item()


def report(out: Path) -> str:
    """Tabulate every model in the folder and both naive additions, on task and domain."""
    models = {name: onnx.load(out / f"{name}.onnx") for name in RECIPES}
    for base in ("v2", "v2_lineage"):
        label = f"{base} + v1_ft - v1"
        models[label] = add_naively(models[base], models["v1"], models["v1_ft"])
    lines = [f"{'model':24}{'task loss':>12}{'acc.':>7}{'domain loss':>14}{'acc.':>7}"]
    loss = {}
    for name, model in models.items():
        loss[name], task = score(model, out / "task.npz")
        domain_loss, domain = score(model, out / "domain.npz")
        lines.append(f"{name:24}{loss[name]:12.3f}{task:7.3f}{domain_loss:14.3f}{domain:7.3f}")
    for base in ("v2", "v2_lineage"):
        gain = loss[base] - loss[f"{base}_ft"]
        share = (loss[base] - loss[f"{base} + v1_ft - v1"]) / gain
        lines.append(f"naive addition recovers {share:.2f} of the gain of {base}_ft in loss")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- main
def build(out: Path, recipes: Recipes) -> None:
    """Train every recipe in order and write models, data and README to `out`."""
    started = time.monotonic()
    train_digits, test_digits = digit_split(seed=0)
    out.mkdir(parents=True, exist_ok=True)
    test_glyphs = next(glyph_batches(RICH, HELD_OUT, seed=99))
    task = write_data(test_digits, out / "task.npz")
    domain = write_data(test_glyphs, out / "domain.npz")
    models: dict[str, Model] = {}
    for name, recipe in recipes.items():
        models[name] = make(recipe, models, train_digits)
        export(models[name], out / f"{name}.onnx")
        print(f"{name:14} trained, {time.monotonic() - started:4.0f} s", flush=True)
    (out / "README.md").write_text(readme(models, recipes, [task, domain], out))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=EXAMPLE, metavar="DIR", help="where to write")
    parser.add_argument("--quick", action="store_true", help="a few steps each: a smoke test")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipes = RECIPES
    if options.quick:
        recipes = {name: replace(recipe, steps=5) for name, recipe in RECIPES.items()}
    build(options.out, recipes)
    print(report(options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
