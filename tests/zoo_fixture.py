"""Zoo models for tests, built on first use into `.zoo/` at the repository root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from filelock import FileLock
from zoo_models.entry import ZooEntry, ZooUnavailable, load, names

__all__ = ["ZooEntry", "ZooUnavailable", "names", "zoo_folder", "zoo_model"]

ROOT = Path(__file__).resolve().parent.parent


def zoo_folder() -> Path:
    """Return the cache folder; the environment variable `GRAPHREBASE_ZOO` overrides it."""
    return Path(os.environ.get("GRAPHREBASE_ZOO", ROOT / ".zoo"))


def zoo_model(name: str) -> ZooEntry:
    """Return an entry, built if it is missing or older than its builder.

    A lock file per entry makes concurrent test workers build it once.

    Raises:
        KeyError: there is no such entry.
        ZooUnavailable: the combination cannot be exported; the message says why.
    """
    folder = zoo_folder()
    entry = load(name, folder)
    if entry is not None:
        return entry
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        entry = load(name, folder)
        if entry is None:
            from zoo_models.building import build

            entry = build(name, folder)
    return entry
