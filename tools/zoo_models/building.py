"""Building any entry of the zoo: exports, and what export paths make of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphrebase.errors import GraphRebaseError
from graphrebase.runtime import Session, cast_inputs
from zoo_models.entry import ZooEntry, ZooUnavailable, builder_key, load, record_path
from zoo_models.paths import PATHS
from zoo_models.paths.path import Arrays, Case, Source


def entry_of(name: str, folder: Path) -> ZooEntry:
    """Return an entry, built if it is missing or out of date.

    Raises:
        KeyError: there is no such entry.
        ZooUnavailable: the combination cannot be exported; the message says why.
    """
    return load(name, folder) or build(name, folder)


def build(name: str, folder: Path) -> ZooEntry:
    """Build an entry into `folder`, its record last, each file moved into place whole.

    Raises:
        KeyError: there is no such entry.
        ZooUnavailable: the exporter or an optimiser refused; the reason is stored.
    """
    base, _, path = name.partition("+")
    if not path:
        from zoo_models.builder import build as export  # needs torch: seconds to import

        return export(name, folder)
    try:
        source = entry_of(base, folder)
    except ZooUnavailable as reason:
        raise ZooUnavailable(f"{name}: no base: {reason}") from reason
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        started = time.monotonic()
        record = {
            **{key: source.info[key] for key in ("family", "exporter", "attention")},
            "name": name,
            "path": path,
            "failure": "",
            "builder": builder_key(name),
            **_derived(source, path, scratch / f"{name}.onnx"),
        }
        record["seconds"] = round(time.monotonic() - started, 2)
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)
        (scratch / "record").write_text(json.dumps(record, indent=1) + "\n")
        os.replace(scratch / "record", record_path(name, folder))
    finally:
        shutil.rmtree(scratch)
    entry = load(name, folder)
    if entry is None:
        raise ZooUnavailable(f"{name}: the record was replaced while it was read")
    return entry


def _derived(source: ZooEntry, path: str, output: Path) -> dict[str, Any]:
    """Write the model, inputs and outputs; return what was measured."""
    start = Source(source.info["family"], source.path, source.inputs, source.outputs)
    try:
        PATHS[path].apply(start, output)
        cases = PATHS[path].cases(start)
    except Exception as error:  # optimisers raise anything; the reason is the result
        for file in output.parent.iterdir():
            file.unlink()
        return {"failure": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    check: dict[str, Any] = {"runs": True, "why_not": "", "error": None}
    try:
        cases, check["error"] = _run(output, cases)
    except GraphRebaseError as error:
        check |= {"runs": False, "why_not": " ".join(str(error).split())[:500]}
    _write(output.with_suffix(".inputs.npz"), {size: c.inputs for size, c in cases.items()})
    _write(output.with_suffix(".outputs.npz"), {size: c.outputs for size, c in cases.items()})
    return {**check, "bytes": output.stat().st_size}


def _run(output: Path, cases: Mapping[str, Case]) -> tuple[dict[str, Case], float]:
    """Return the cases with inputs in the model's types, and how far its outputs are from them."""
    session = Session(output)
    typed, worst = {}, 0.0
    for size, case in cases.items():
        known = {k: v for k, v in case.inputs.items() if k in session.inputs}
        typed[size] = Case(cast_inputs(session, known), case.outputs)
        for name, found in session.run(typed[size].inputs).items():
            right = case.outputs[name].astype(np.float64)
            error = np.abs(found.astype(np.float64) - right).max() / np.abs(right).max()
            worst = max(worst, float(error))
    return typed, worst


def _write(path: Path, sizes: Mapping[str, Arrays]) -> None:
    flat = {f"{size}/{key}": array for size, part in sizes.items() for key, array in part.items()}
    np.savez(path, **flat)  # type: ignore[arg-type]
