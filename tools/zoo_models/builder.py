"""Building entries of the zoo: export, run in onnxruntime, compare with torch, store."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch

from zoo_models.entry import (
    Arrays,
    ZooEntry,
    ZooUnavailable,
    builder_key,
    load,
    record_path,
    split_name,
)
from zoo_models.exporting import dynamic_axes, export
from zoo_models.families import FAMILIES
from zoo_models.modules import Zoo, add_noise, make_module, sample_inputs
from zoo_models.sizes import LARGE, PADDING, SAMPLE, SMALL

SEED = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """Torch modules to rebase: base `a`, its fine-tuned `a_ft`, and an independent `b`."""

    a: Zoo
    a_ft: Zoo
    b: Zoo


def build_pair(family: str, seed: int = 0, change: float = 0.1) -> Pair:
    """Return the modules of a rebase; `a_ft` is `a` with noise of relative size `change`."""
    a, _, _ = make_module(family, seed)
    a_ft, _, _ = make_module(family, seed)
    add_noise(a_ft, seed + 1000, change)
    b, _, _ = make_module(family, seed + 2000)
    return Pair(a, a_ft, b)


def check_inputs(family: str, exporter: str) -> dict[str, Arrays]:
    """Return the small and the large inputs of an entry; the large one has padding.

    What the legacy exporter bakes in stays as it was exported. onnxruntime 1.32 rejects the
    opset-23 RotaryEmbedding that the exporter writes (cos and sin of batch 1) at any other batch
    size than 1.
    """
    known = FAMILIES[family]
    sizes = {"small": SMALL, "large": LARGE}
    if known.baked and exporter.startswith("ts"):
        sizes = {key: (batch, SAMPLE[1]) for key, (batch, _) in sizes.items()}
    if exporter == "dy23" and any(tower.rotary for tower in known.nominal.towers):
        sizes = {key: (1, sequence) for key, (_, sequence) in sizes.items()}
    return {
        key: sample_inputs(family, *size, seed=sum(size), pad=PADDING if key == "large" else 0)
        for key, size in sizes.items()
    }


def build(name: str, folder: Path) -> ZooEntry:
    """Build an entry into `folder`, its record last, each file moved into place whole.

    Raises:
        KeyError: there is no such entry.
        ZooUnavailable: the exporter refused; the reason is stored.
    """
    family, exporter, attention = split_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        record = {
            "name": name,
            "family": family,
            "exporter": exporter,
            "attention": attention,
            "builder": builder_key(family),
            "failure": "",
            **_export_and_check(scratch / name, family, exporter, attention),
        }
        record["seconds"] = round(time.monotonic() - started, 2)
        for path in sorted(scratch.iterdir()):
            os.replace(path, folder / path.name)
        record_file = scratch / "record"
        record_file.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(record_file, record_path(name, folder))
    finally:
        shutil.rmtree(scratch)
    entry = load(name, folder)
    if entry is None:
        raise ZooUnavailable(f"{name}: the record was replaced while it was read")
    return entry


def _export_and_check(stem: Path, family: str, exporter: str, attention: str) -> dict[str, Any]:
    """Write model, inputs and outputs beside `stem`; return what was measured."""
    path = stem.with_name(stem.name + ".onnx")
    try:
        module, _, outputs = make_module(family, SEED)
        export(module, path, exporter, attention)
    except Exception as error:  # exporters raise anything; the reason is the result
        path.unlink(missing_ok=True)
        return {"failure": f"{type(error).__name__}: {_first_lines(error)}"}
    feeds = check_inputs(family, exporter)
    wanted = {size: _torch_outputs(module, feed, outputs) for size, feed in feeds.items()}
    used, check = _run(path, feeds, wanted)
    _write(
        stem.with_name(stem.name + ".inputs.npz"),
        {size: {key: feed[key] for key in used} for size, feed in feeds.items()},
    )
    _write(stem.with_name(stem.name + ".outputs.npz"), wanted)
    return {
        **check,
        "bytes": path.stat().st_size,
        "dynamic": dynamic_axes(family, exporter),
        "inputs": {
            size: {key: list(feed[key].shape) for key in used} for size, feed in feeds.items()
        },
    }


def _torch_outputs(module: Zoo, feed: Arrays, outputs: tuple[str, ...]) -> Arrays:
    with torch.no_grad():
        results = module(*(torch.from_numpy(array) for array in feed.values()))
    return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}


def _run(
    path: Path, feeds: dict[str, Arrays], wanted: dict[str, Arrays]
) -> tuple[list[str], dict[str, Any]]:
    """Return the inputs that the graph kept, and how onnxruntime agrees with torch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],  # it ends the process on some float16 models
        )
    except Exception as error:  # onnxruntime's exceptions share no public base
        return list(next(iter(feeds.values()))), _refused(error)
    used = [value.name for value in session.get_inputs()]
    worst = 0.0
    try:
        for size, feed in feeds.items():
            got = session.run(list(wanted[size]), {key: feed[key] for key in used})
            for found, right in zip(got, wanted[size].values(), strict=True):
                if found.shape != right.shape:
                    return used, _refused(ValueError(f"{size}: {found.shape}, not {right.shape}"))
                worst = max(worst, float(np.abs(found - right).max() / np.abs(right).max()))
    except Exception as error:  # as above
        return used, _refused(error)
    return used, {"runs": True, "why_not": "", "error": worst}


def _refused(error: Exception) -> dict[str, Any]:
    return {"runs": False, "why_not": _first_lines(error), "error": None}


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _write(path: Path, sizes: dict[str, Arrays]) -> None:
    flat = {f"{size}/{key}": array for size, part in sizes.items() for key, array in part.items()}
    np.savez(path, **flat)  # type: ignore[arg-type]
