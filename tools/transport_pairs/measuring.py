"""Running graphrebase's command line on a pair and scoring what it writes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graphrebase.errors import GraphRebaseError
from graphrebase.runtime import Session, evaluate, load_npz, split_labels
from transport_pairs.scoring import Bounds, Outcome, Score

COMMAND = "from graphrebase.cli import main; main()"
TIME_LIMIT = 3600.0  # seconds a command may take


@dataclass(frozen=True, slots=True)
class Method:
    """How the command line is called.

    Attributes:
        name: in the tables.
        method: of `graphrebase rebase --method`.
        probes: unlabelled inputs given: none, `few` (64 images or 16 sequences of a causal
            model) or `many` (256, 40).
        extra: further arguments.
    """

    name: str
    method: str
    probes: str = ""
    extra: tuple[str, ...] = ()


METHODS = {
    method.name: method
    for method in (
        Method("naive", "naive"),
        Method("transfusion", "transfusion"),
        Method("anchored", "anchored"),
        Method("auto", "auto"),
        Method("fit", "fit"),
        Method("fit+few", "fit", "few"),
        Method("fit+many", "fit", "many"),
    )
}
INDEPENDENT = ("naive", "transfusion", "anchored", "fit", "fit+few", "fit+many")
LINEAGE = ("naive", "auto", "anchored")
COUNTS = {256: {"few": 64, "many": 256}, 64: {"few": 16, "many": 40}}
"""By the number of stored probes, how many of them are given."""


@dataclass(frozen=True, slots=True)
class Case:
    """A pair on disk as it is measured: which file is B.

    Attributes:
        folder: with v1.onnx and the others.
        name: of the pair, with a note where B is not v2.
        kind: `independent`, `lineage`, `head`, `resized` or `exporter`.
        target: the file of B, without its extension.
    """

    folder: Path
    name: str
    kind: str
    target: str

    def path(self, file: str) -> Path:
        """Return the path of a model."""
        return self.folder / f"{file}.onnx"


def cases(folder: Path) -> list[Case]:
    """Return the cases in a folder: with v2, and with v2_lineage where it is there."""
    about = folder / "figures.json"
    kind = json.loads(about.read_text())["kind"] if about.exists() else "independent"
    found = [Case(folder, folder.name, kind, "v2")]
    if (folder / "v2_lineage_ft.onnx").exists():
        found.append(Case(folder, f"{folder.name}, lineage", "lineage", "v2_lineage"))
    return found


def score(model: Path, data: Path) -> Score:
    """Return loss and accuracy of a model on labelled data."""
    inputs, labels = split_labels(load_npz(data))
    if labels is None:
        raise ValueError(f"{data} has no labels")
    found = evaluate(Session(model), inputs, labels)
    return Score(found.cross_entropy, found.accuracy)


def bounds(case: Case) -> Bounds:
    """Return what B and the fine-tuned B reach."""
    data, keep = case.folder / "data.npz", case.folder / "keep.npz"
    tuned = case.path(f"{case.target}_ft")
    after = score(tuned, data)
    if case.kind == "head":
        with np.load(data) as arrays:
            classes = int(arrays["label"].max()) + 1
        return Bounds(Score.of_chance(classes), after)
    base = case.path(case.target)
    return Bounds(score(base, data), after, score(base, keep), score(tuned, keep))


def run(case: Case, method: Method, work: Path) -> Outcome:
    """Rebase a case through the command line and score the result."""
    output = work / "out.onnx"
    output.unlink(missing_ok=True)
    arguments = ["rebase", "--json", "--force", "--method", method.method, "-o", str(output)]
    for option, file in (("base", "v1"), ("finetuned", "v1_ft"), ("target", case.target)):
        arguments += [f"--{option}", str(case.path(file))]
    if method.probes:
        arguments += ["--probes", str(_probes(case, method.probes, work))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments, *method.extra],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return Outcome(method.name, seconds=TIME_LIMIT, error="out of time")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        error = next((line for line in lines if line.startswith("error")), lines[-1])
        return Outcome(method.name, seconds=seconds, error=error.replace("|", "/")[:160])
    outcome = _from_report(json.loads(done.stdout), method.name, seconds)
    return _scored(outcome, case, output)


def _from_report(report: dict[str, object], name: str, seconds: float) -> Outcome:
    verdict = report.get("verdict")
    value = verdict.get("evidence") if isinstance(verdict, dict) else None
    return Outcome(
        name,
        used=str(report.get("method", "")),
        evidence=float(value) if isinstance(value, int | float) else None,
        seconds=seconds,
    )


def _scored(outcome: Outcome, case: Case, output: Path) -> Outcome:
    try:
        task = score(output, case.folder / "data.npz")
        keep = None if case.kind == "head" else score(output, case.folder / "keep.npz")
    except GraphRebaseError as error:
        return replace(outcome, error=str(error).splitlines()[0])
    return replace(outcome, task=task, keep=keep)


def _probes(case: Case, amount: str, work: Path) -> Path:
    """Write the first probes of a case to a file of their own."""
    path = work / "probes.npz"
    with np.load(case.folder / "probes.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    rows = len(next(iter(arrays.values())))
    count = COUNTS.get(rows, {"few": rows // 4, "many": rows})[amount]
    np.savez(path, allow_pickle=False, **{name: a[:count] for name, a in arrays.items()})
    return path
