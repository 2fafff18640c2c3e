"""Train, export and describe the pairs of the catalogue, each once, in a folder of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transport_pairs.catalogue import Pair, Recipe, recipes
from transport_pairs.domains import Domain, domains
from transport_pairs.exporting import export
from transport_pairs.glyphs import Batch
from transport_pairs.models import Model, continue_from, make_model, parameter_count
from transport_pairs.training import judge, train

HELD_OUT = {"images": 500, "text": 128, "classes": 600}  # samples of each evaluation set


@dataclass(frozen=True, slots=True)
class Profile:
    """How long to train and how large: factors of what the catalogue says.

    Attributes:
        steps: of the optimizer's steps.
        batch: of the samples per step.
        width: of the width, heads and MLP; the learning rate is divided by it.
        depth: of the number of blocks.
    """

    steps: float
    batch: int = 1
    width: int = 1
    depth: int = 1

    def model(self, architecture: str) -> Model:
        """Return a model of this size with random weights."""
        return make_model(architecture, self.width, self.depth)

    def apply(self, recipe: Recipe) -> Recipe:
        """Return a recipe of the catalogue as it is followed."""
        return replace(
            recipe,
            steps=max(1, round(recipe.steps * self.steps)),
            batch=recipe.batch * self.batch,
            rate=recipe.rate / self.width,
        )


PROFILES = {
    "quick": Profile(1.0),
    "full": Profile(4.0),
    "large": Profile(2.0, batch=4, width=3, depth=2),
}
FIGURES = "figures.json"
TEXT_CACHE = ".texts"
PROBES = 12345  # seed of the probes


class Workshop:
    """A folder of pairs, and of the trained weights that they share."""

    def __init__(self, root: Path, profile: str = "quick", device: str = "cpu") -> None:
        """Use `root`; `profile` is one of `PROFILES`, `device` where to train."""
        self.root, self.name, self.device = root, profile, device
        self.profile = PROFILES[profile]
        self.recipes: Mapping[str, Recipe] = recipes()
        self.domains: Mapping[str, Domain] = domains(root / TEXT_CACHE)
        self.weights = root / f".weights-{profile}"
        self.weights.mkdir(parents=True, exist_ok=True)

    def model(self, name: str) -> Model:
        """Return a trained model of the catalogue, from its weights on disk if they are there."""
        recipe = self.recipes[name]
        path = self.weights / f"{name}.pt"
        torch.manual_seed(recipe.seed)
        model = self.profile.model(recipe.architecture)
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
            return model.eval()
        if recipe.start is not None:
            continue_from(model, self.model(recipe.start))
        started = time.perf_counter()
        recipe = self.profile.apply(recipe)
        batches = self.domains[recipe.domain].batches("train", recipe.batch, recipe.seed)
        train(model, batches, recipe.steps, recipe.rate, self.device)
        spent = time.perf_counter() - started
        partial = path.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        partial.rename(path)
        print(f"{name}: {recipe.steps} steps, {spent:.0f} seconds", flush=True)
        return model

    def build(self, pair: Pair) -> Path:
        """Return the folder of a pair, training and writing what is missing."""
        folder = self.root / pair.name
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / FIGURES
        known = json.loads(about.read_text())["models"] if about.exists() else {}
        missing = {file: name for file, name in pair.models.items() if file not in known}
        if not missing:
            return folder
        held_out = self._data(pair, folder)
        for file, name in missing.items():
            model = self.model(name)
            export(model, folder / f"{file}.onnx", pair.exporter)
            known[file] = _figures(model, pair, file, held_out)
        text = {"kind": pair.kind, "profile": self.name, "models": known}
        about.write_text(json.dumps(text, indent=1))
        return folder

    def _data(self, pair: Pair, folder: Path) -> list[Batch]:
        """Write what a pair is judged on and its probes; return held-out task and keep data."""
        inputs = make_model(self.recipes[pair.models["v1"]].architecture).inputs
        task, keep = self.domains[pair.task], self.domains[pair.keep]
        kind = "images" if inputs[0] == "pixel_values" else "text"
        count = HELD_OUT["classes" if pair.kind == "head" and kind == "text" else kind]
        held_out = [domain.held_out(count) for domain in (task, keep)]
        write_npz(folder / "data.npz", inputs, *held_out[0])
        write_npz(folder / "keep.npz", inputs, *held_out[1])
        write_npz(
            folder / "probes.npz", inputs, next(task.batches("train", pair.probes, PROBES))[0]
        )
        return held_out


def _figures(model: Model, pair: Pair, file: str, held_out: list[Batch]) -> dict[str, float]:
    """Return size and, where the model has the head, loss and accuracy on task and keep."""
    found: dict[str, float] = {"parameters": parameter_count(model)}
    for name, data in zip(("task", "keep"), held_out, strict=True):
        if pair.kind == "head" and file.endswith("_ft") != (name == "task"):
            continue
        found[f"{name}_loss"], found[f"{name}_accuracy"] = judge(model, data)
    return found


def write_npz(
    path: Path, names: tuple[str, ...], data: Tensor, labels: Tensor | None = None
) -> None:
    """Write inputs under the model's names (a mask of ones where it reads one), and labels."""
    arrays = {names[0]: data.numpy()}
    if "attention_mask" in names:
        arrays["attention_mask"] = np.ones(data.shape, np.int64)
    if labels is not None:
        arrays["label"] = labels.numpy()
    np.savez_compressed(path, allow_pickle=False, **arrays)


def describe(root: Path) -> str:
    """Return a table of every pair in a folder: what its models reach on the task."""
    lines = [
        "| pair | kind | parameters A / B | A | A_ft | B | B_ft | B_ft on B's domain, B before |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(root.glob(f"*/{FIGURES}")):
        about = json.loads(path.read_text())
        models = about["models"]
        sizes = " / ".join(f"{models[m]['parameters']:,}" for m in ("v1", "v2"))
        cells = [path.parent.name, about["kind"], sizes]
        cells += [_cell(models[file], "task") for file in ("v1", "v1_ft", "v2", "v2_ft")]
        cells.append(", ".join(_cell(models[file], "keep") for file in ("v2_ft", "v2")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figures: Mapping[str, float], name: str) -> str:
    if f"{name}_loss" not in figures:
        return "-"
    return f"{figures[f'{name}_loss']:.3f} ({figures[f'{name}_accuracy']:.3f})"
