"""Report what graphrebase finds in every model of the zoo, against what is nominal.

`python tools/zoo_report.py [--only PATTERN..] [--out FILE.md]` prints one table, architecture by
export path: groups found of the nominal ones (hidden states and caches free), the permutation check
at two input sizes, a control that leaves one member of every group out, blocks, CPU seconds of the
analysis; then what is frozen and why, what does not export, and a summary. Entries that are not
built yet are built (`--built`: are left out). Every few entries run in a process of their own.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from zoo_models.building import build
from zoo_models.checking import Finding, examine
from zoo_models.entry import ZooUnavailable, export_path, is_held_out, load, names
from zoo_models.reporting import render

CACHE = Path(__file__).resolve().parent.parent / ".zoo"
PER_PROCESS = 30  # entries after which a worker is replaced: what libraries leak stays bounded
PATIENCE = 300.0  # seconds until an entry counts as hanging
MEMORY = 6 << 30  # bytes of address space of a worker


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if anything crashed or is unsound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--held-out", choices=("with", "without", "only"), default="without")
    parser.add_argument("--built", action="store_true", help="only entries that are built")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where the models lie")
    parser.add_argument("--out", type=Path, help="write the report there too")
    parser.add_argument("--json", type=Path, help="write the findings, one JSON object a line")
    options = parser.parse_args(arguments)
    chosen = list(_chosen(options.only, options.held_out))
    if options.built:
        chosen = [name for name in chosen if _is_built(name, options.folder)]
    findings = list(_examined(chosen, options.folder, options.json))
    text = render(findings)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return int(any(not f.sound and not f.failure.startswith("not exported") for f in findings))


def _chosen(patterns: list[str], held_out: str) -> Iterator[str]:
    for name in names():
        aside = is_held_out(name)
        if (aside and held_out == "without") or (not aside and held_out == "only"):
            continue
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            yield name


def _is_built(name: str, folder: Path) -> bool:
    try:
        return load(name, folder) is not None
    except ZooUnavailable:
        return True


def _examined(chosen: list[str], folder: Path, record: Path | None) -> Iterator[Finding]:
    """Yield a finding per entry, from workers that are replaced when they die, hang or grow old."""
    context = multiprocessing.get_context("spawn")
    worker, done = None, 0
    for number, name in enumerate(chosen, 1):
        if worker is None or done == PER_PROCESS:
            worker, done = _replace(worker, context), 0
        process, pipe = worker
        pipe.send((name, folder))
        try:
            finding = pipe.recv() if pipe.poll(PATIENCE) else None
        except EOFError:
            finding = None
        if finding is None:
            word = "hangs" if process.is_alive() else f"died, exit code {process.exitcode}"
            finding = Finding(name, failure=f"crash: the process {word}")
            worker = _replace(worker, context)
        done += 1
        print(f"[{number}/{len(chosen)}] {_line(finding)}", file=sys.stderr, flush=True)
        if record:
            with record.open("a") as stream:
                stream.write(json.dumps(asdict(finding)) + "\n")
        yield finding
    if worker:
        worker[0].kill()


def _replace(worker, context):  # type: ignore[no-untyped-def]
    if worker is not None:
        worker[0].kill()
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            name, folder = pipe.recv()
        except EOFError:
            return
        pipe.send(_finding(name, folder))


def _finding(name: str, folder: Path) -> Finding:
    try:
        entry = load(name, folder)
        if entry is None:
            entry = build(name, folder)
    except ZooUnavailable as reason:
        return Finding(name, failure=f"not exported: {str(reason).partition(': ')[2]}")
    except Exception as error:
        return Finding(name, failure=f"not exported: {type(error).__name__}: {error}")
    try:
        return examine(entry, export_path(name))
    except Exception as error:  # a crash of the library is what the report is for
        return Finding(name, failure=f"crash: {type(error).__name__}: {error}")


def _line(finding: Finding) -> str:
    if finding.failure:
        return f"{finding.name}: {finding.failure[:200]}"
    missing = ", ".join(f"{k} {a}/{b}" for k, (a, b) in finding.missing.items())
    parts = [missing and f"missing {missing}", finding.blocks and f"blocks: {finding.blocks}"]
    parts += [finding.guilty and f"UNSOUND {finding.guilty}"]
    parts += [finding.silent and f"silent {finding.silent}", finding.not_run and "not run"]
    error = "-" if finding.error is None else f"{finding.error:.0e}"
    return f"{finding.name}: {'; '.join(str(p) for p in parts if p) or 'ok'} (error {error})"


if __name__ == "__main__":
    raise SystemExit(main())
