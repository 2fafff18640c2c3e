"""Entries of the zoo on disk: their names, files and freshness. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from zoo_models.families import FAMILIES
from zoo_models.nominal import Nominal

EXPORTERS: Mapping[str, int] = {"ts14": 14, "ts17": 17, "dy18": 18, "dy23": 23}  # name: opset
ATTENTION = ("eager", "sdpa")
Arrays = dict[str, np.ndarray]


class ZooUnavailable(Exception):
    """The combination cannot be exported; the message is the exporter's reason."""


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One exported model with two sets of inputs and the outputs that torch computed.

    `path` is the model; `inputs` and `outputs` map `small` and `large` to arrays by the names of
    the graph inputs and outputs; `nominal` is the structure by hand; `info` the stored record
    (`runs`: accepted by onnxruntime on CPU, `why_not`, `error`: largest difference from torch
    relative to the output scale).
    """

    name: str
    path: Path
    inputs: Mapping[str, Arrays]
    outputs: Mapping[str, Arrays]
    nominal: Nominal
    info: Mapping[str, Any]


def names() -> Iterator[str]:
    """Yield the name of every entry, `FAMILY-EXPORTER-ATTENTION`."""
    for family in FAMILIES:
        for exporter in EXPORTERS:
            for attention in ATTENTION:
                if attention == "eager" or not family.endswith("-fresh"):
                    yield f"{family}-{exporter}-{attention}"


def split_name(name: str) -> tuple[str, str, str]:
    """Return the family, exporter and attention of an entry's name.

    Raises:
        KeyError: there is no such entry.
    """
    if name not in set(names()):
        raise KeyError(f"no zoo entry {name!r}; tools/zoo.py --list shows all")
    family, exporter, attention = name.rsplit("-", 2)
    return family, exporter, attention


def family_of(name: str) -> str:
    """Return the family in an entry's name."""
    return name.partition("+")[0].rsplit("-", 2)[0]


def export_path(name: str) -> str:
    """Return the export path in an entry's name: `EXPORTER-ATTENTION` and what follows."""
    return name.removeprefix(f"{family_of(name)}-")


@functools.cache
def _common_key() -> str:
    """Return a hash of what every model depends on: the builder's source, library versions."""
    digest = hashlib.sha256()
    for source in ("sizes.py", "modules.py", "exporting.py", "builder.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    for library in ("torch", "transformers", "onnx", "onnxscript"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def builder_key(family: str) -> str:
    """Return a hash of what decides the models of a family."""
    known = FAMILIES[family]
    parts = (_common_key(), known.key, known.noisy, sorted(known.shapes.items()), known.baked)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def record_path(name: str, folder: Path) -> Path:
    """Return where the JSON record of an entry lies."""
    return folder / f"{name}.json"


def load(name: str, folder: Path) -> ZooEntry | None:
    """Return a stored entry, or None if it is missing or older than its builder.

    Raises:
        KeyError: there is no such entry.
        ZooUnavailable: it was tried, and cannot be exported.
    """
    family, _, _ = split_name(name)
    model, inputs, outputs = (
        folder / f"{name}{end}" for end in (".onnx", ".inputs.npz", ".outputs.npz")
    )
    try:
        info = json.loads(record_path(name, folder).read_text())
    except (OSError, ValueError):
        return None
    if info["builder"] != builder_key(family):
        return None
    if info["failure"]:
        raise ZooUnavailable(f"{name}: {info['failure']}")
    if not (model.exists() and inputs.exists() and outputs.exists()):
        return None
    return ZooEntry(name, model, _read(inputs), _read(outputs), FAMILIES[family].nominal, info)


def _read(path: Path) -> dict[str, Arrays]:
    """Read an archive of `size/name` arrays."""
    sizes: dict[str, Arrays] = {"small": {}, "large": {}}
    with np.load(path) as archive:
        for key in archive:
            size, _, name = key.partition("/")
            sizes[size][name] = archive[key]
    return sizes
