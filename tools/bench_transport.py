"""Measure how much of a fine-tuning every method carries over, on release pairs made here.

    python tools/bench_transport.py [--pairs DIR] [--only GLOB ...] [--methods naive fit ...]
                                    [--train quick|full|large] [--no-build] [--jobs N]
                                    [--out TABLE.md]

Pairs that are missing in DIR are trained first (hours on one core for all of them; to train on a
GPU, call `make_transport_pairs.py`). Each method runs through graphrebase's command line with its
defaults; the results are scored on held-out data. `recovered` is (B - new) / (B - B_ft), in loss
and in accuracy; `forgetting` the loss gained on B's own domain as a share of what fine-tuning B
loses there. Where no base has the task's head, B is chance. `few` are 64 unlabelled images or
windows, 16 sequences for causal models; `many` 256 and 40. CPU seconds are of the whole command,
start included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path

from transport_pairs.measuring import INDEPENDENT, LINEAGE, METHODS, Case, bounds, cases, run
from transport_pairs.scoring import Bounds, Outcome, means, table

Found = dict[str, tuple[str, Bounds, list[Outcome]]]
PROFILES = ("quick", "full", "large")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=Path, default=Path(".pairs"), metavar="DIR")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="names of cases")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="in place of the usual ones")
    parser.add_argument("--train", choices=PROFILES, default="quick", help="for missing pairs")
    parser.add_argument("--no-build", action="store_true", help="measure what is there")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="commands at a time")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args(arguments)
    if not options.no_build:
        build_missing(options.pairs, options.only, options.train)
    text = ""
    for found in measure(list(chosen(options.pairs, options.only)), options.methods, options.jobs):
        text = report(found, options.pairs)
        if options.out is not None:
            options.out.write_text(text)
    print(text or f"no pairs in {options.pairs}")
    return 0


def build_missing(root: Path, only: list[str], profile: str) -> None:
    """Train the pairs of the catalogue that are not there; needs the development tools."""
    from transport_pairs.build import Workshop
    from transport_pairs.catalogue import pairs

    wanted = [p for p in pairs() if fits(p.name, only) or fits(f"{p.name}, lineage", only)]
    workshop = Workshop(root, profile)
    for pair in wanted:
        workshop.build(pair)


def fits(name: str, only: list[str]) -> bool:
    """Return whether a name is of one of the patterns."""
    return any(fnmatch(name, glob) for glob in only)


def chosen(root: Path, only: list[str]) -> Iterator[Case]:
    """Yield the cases of a folder of pairs whose names fit, finished pairs only."""
    for folder in sorted(path.parent for path in root.glob("*/data.npz")):
        if (folder / "v2_ft.onnx").exists():
            yield from (case for case in cases(folder) if fits(case.name, only))


def measure(found: list[Case], methods: list[str] | None, jobs: int) -> Iterator[Found]:
    """Run the methods on every case, `jobs` at a time, and yield what is known after each.

    Each command has a worker process that waits for it alone, and so knows its CPU time.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        limits = dict(zip(found, pool.map(bounds, found), strict=True))
        running = {
            case: [pool.submit(outcome, case, name) for name in methods or usual(case)]
            for case in found
        }
        for _ in as_completed(future for futures in running.values() for future in futures):
            done = {
                case: [future.result() for future in futures if future.done()]
                for case, futures in running.items()
            }
            yield {c.name: (group(c), limits[c], outcomes) for c, outcomes in done.items()}


def usual(case: Case) -> tuple[str, ...]:
    """Return the methods that say something about a case."""
    return LINEAGE if case.kind == "lineage" else INDEPENDENT


def outcome(case: Case, name: str) -> Outcome:
    """Run one method on a case and tell stderr."""
    with tempfile.TemporaryDirectory() as work:
        found = run(case, METHODS[name], Path(work))
    print(f"{case.name}: {name}: {found.task or found.error}", file=sys.stderr, flush=True)
    return found


def group(case: Case) -> str:
    """Return the group in which a case is averaged: its family and kind."""
    return f"{case.name.partition('-')[0]}, {case.kind}"


def report(found: Found, root: Path) -> str:
    """Return all tables as Markdown, the means first."""
    parts = ["## Means\n", means(found)]
    overall = {
        name: (kind(group_name), limits, outcomes)
        for name, (group_name, limits, outcomes) in found.items()
    }
    parts += ["\n## Means over families\n", means(overall)]
    for name, (_, limits, outcomes) in found.items():
        sizes = sizes_of(root / name.partition(",")[0], name)
        parts.append(f"\n## {name}{sizes}\n\n{table(limits, outcomes)}")
    return "\n".join(parts) + "\n"


def kind(group_name: str) -> str:
    """Return the kind of a group, for the means over all families."""
    return group_name.rpartition(", ")[2]


def sizes_of(folder: Path, name: str) -> str:
    """Return the parameter counts of A and B, where the folder tells them."""
    about = folder / "figures.json"
    if not about.exists():
        return ""
    models = json.loads(about.read_text())["models"]
    target = "v2_lineage" if name.endswith("lineage") else "v2"
    counts = (models[model]["parameters"] / 1e6 for model in ("v1", target))
    return " (A {:.2f} M, B {:.2f} M parameters)".format(*counts)


if __name__ == "__main__":
    raise SystemExit(main())
