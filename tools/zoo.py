"""The model zoo: tiny random exported transformers for tests and development.

`python tools/zoo.py --list` names every entry; `python tools/zoo.py build [--only PATTERN]
[--out DIR]` builds them. As a library, with `tools` on the import path:
`build`, `build_pair`, `make_module`, `export`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path

from zoo_models.builder import Pair, build_pair
from zoo_models.building import build
from zoo_models.entry import ZooEntry, ZooUnavailable, load, names
from zoo_models.exporting import export
from zoo_models.families import FAMILIES
from zoo_models.modules import make_module

__all__ = ["Pair", "ZooEntry", "build", "build_pair", "export", "make_module", "names"]

CACHE = Path(__file__).resolve().parent.parent / ".zoo"


def write_manifest(folder: Path) -> Path:
    """Collect the records of all entries in `folder` into `manifest.json`; return its path."""
    paths = (folder / f"{name}.json" for name in names())
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    manifest = folder / "manifest.json"
    told = {
        record["name"]: record | {"nominal": FAMILIES[record["family"]].nominal.as_record()}
        for record in records
    }
    manifest.write_text(json.dumps(told, indent=1))
    return manifest


def build_all(patterns: list[str], folder: Path, *, force: bool) -> int:
    """Build the entries of `patterns` that are not up to date; return an exit code."""
    chosen = [name for name in names() if any(fnmatch.fnmatch(name, p) for p in patterns)]
    if not chosen:
        print(f"no entry matches {patterns}; --list shows all", file=sys.stderr)
        return 2
    unavailable = 0
    for name in chosen:
        started = time.monotonic()
        try:
            entry = None if force else load(name, folder)
            word = "kept" if entry else "built"
            entry = entry or build(name, folder)
            info = entry.info
            state = f"error {info['error']:.1e}" if info["runs"] else f"no: {info['why_not']}"
        except ZooUnavailable as reason:
            unavailable += 1
            word, state = "failed", str(reason)
        print(f"{name:32} {word:6} {time.monotonic() - started:5.1f} s  {state}", flush=True)
    write_manifest(folder)
    print(f"{len(chosen)} entries, {unavailable} unavailable, in {folder}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="name every entry and stop")
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("build", help="build entries that are missing or out of date")
    command.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of names"
    )
    command.add_argument("--out", type=Path, default=CACHE, metavar="DIR", help="where to")
    command.add_argument("--force", action="store_true", help="also those up to date")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(names()))
        return 0
    if options.command != "build":
        parser.print_help()
        return 2
    return build_all(options.only, options.out, force=options.force)


if __name__ == "__main__":
    raise SystemExit(main())
