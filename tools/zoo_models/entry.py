"""Entries of the zoo on disk: their names, files and freshness. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from zoo_models.families import FAMILIES
from zoo_models.nominal import Nominal
from zoo_models.paths import PATHS

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
    """Yield the name of every entry: `FAMILY-EXPORTER-ATTENTION`, then those `+PATH`."""
    bases = [name for family in FAMILIES for name in _exports(family)]
    yield from bases
    for name in bases:
        family = family_of(name)
        for path, known in PATHS.items():
            fits = any(fnmatch(family, pattern) for pattern in known.families)
            fits = fits and not family.endswith("-fresh")
            if fits and export_path(name) in known.bases:
                yield f"{name}+{path}"


def _exports(family: str) -> Iterator[str]:
    for exporter in EXPORTERS:
        for attention in ATTENTION:
            if attention == "eager" or not family.endswith("-fresh"):
                yield f"{family}-{exporter}-{attention}"


def split_name(name: str) -> tuple[str, str, str]:
    """Return the family, exporter and attention of an entry's name.

    Raises:
        KeyError: there is no such entry.
    """
    if name not in _known_names():
        raise KeyError(f"no zoo entry {name!r}; tools/zoo.py --list shows all")
    family, exporter, attention = name.partition("+")[0].rsplit("-", 2)
    return family, exporter, attention


@functools.cache
def _known_names() -> frozenset[str]:
    return frozenset(names())


def family_of(name: str) -> str:
    """Return the family in an entry's name."""
    return name.partition("+")[0].rsplit("-", 2)[0]


def export_path(name: str) -> str:
    """Return the export path in an entry's name: `EXPORTER-ATTENTION` and what follows."""
    return name.removeprefix(f"{family_of(name)}-")


def is_held_out(name: str) -> bool:
    """Whether nobody writes against the family or the export path of an entry."""
    path = name.partition("+")[2]
    return FAMILIES[family_of(name)].held_out or (bool(path) and PATHS[path].held_out)


@functools.cache
def _common_key() -> str:
    """Return a hash of what every model depends on: the builder's source, library versions."""
    digest = hashlib.sha256()
    for source in ("sizes.py", "modules.py", "exporting.py", "builder.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    for library in ("torch", "transformers", "onnx", "onnxscript"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


def builder_key(name: str) -> str:
    """Return a hash of what decides the model of an entry (or of a family's exports)."""
    base, _, path = name.partition("+")
    known = FAMILIES[base if base in FAMILIES else family_of(base)]
    parts: tuple[object, ...] = (_common_key(), known.key, known.noisy)
    parts += (sorted(known.shapes.items()), known.baked)
    if path:
        parts += (PATHS[path].key,)
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
    if info["builder"] != builder_key(name):
        return None
    if info["failure"]:
        raise ZooUnavailable(f"{name}: {info['failure']}")
    if not (model.exists() and inputs.exists() and outputs.exists()):
        return None
    return ZooEntry(name, model, _read(inputs), _read(outputs), FAMILIES[family].nominal, info)


def _read(path: Path) -> dict[str, Arrays]:
    """Read an archive of `size/name` arrays."""
    sizes: dict[str, Arrays] = {}
    with np.load(path) as archive:
        for key in archive:
            size, _, name = key.partition("/")
            sizes.setdefault(size, {})[name] = archive[key]
    return sizes
