"""What an export path is. Needs no exporter until it is applied."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Source:
    """The model a path starts from, and its inputs and torch's outputs by size."""

    family: str
    path: Path
    inputs: Mapping[str, Arrays]
    outputs: Mapping[str, Arrays]


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs of a model, and the outputs that it should have."""

    inputs: Arrays
    outputs: Arrays


def all_sizes(source: Source) -> dict[str, Case]:
    """Return the cases of the model a path starts from."""
    return {size: Case(source.inputs[size], source.outputs[size]) for size in source.inputs}


@dataclass(frozen=True, slots=True)
class ExportPath:
    """One way to go on from an exported model.

    Attributes:
        apply: writes the new model to the path given.
        bases: export paths to start from.
        libraries: packages that decide the result.
        families: patterns of the only families it applies to.
        cases: inputs and outputs of the new model, by size.
        held_out: nobody writes against it.
    """

    apply: Callable[[Source, Path], None]
    bases: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    families: tuple[str, ...] = ("*",)
    cases: Callable[[Source], Mapping[str, Case]] = all_sizes
    held_out: bool = False

    @property
    def key(self) -> str:
        """Return what changes when the path's results do."""
        digest = hashlib.sha256(Path(inspect.getfile(self.apply)).read_bytes())
        for library in self.libraries:
            try:
                digest.update(f"{library} {version(library)}".encode())
            except PackageNotFoundError:
                digest.update(f"no {library}".encode())
        return digest.hexdigest()[:16]
