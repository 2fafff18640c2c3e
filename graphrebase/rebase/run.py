"""Rebase: what was prepared is written, and what it did is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphrebase import __version__
from graphrebase.align import Alignment
from graphrebase.io import read_model
from graphrebase.progress import Progress, silent
from graphrebase.rebase.control import HeadReport
from graphrebase.rebase.given import samples
from graphrebase.rebase.plan import Entry
from graphrebase.rebase.prepare import prepare
from graphrebase.rebase.prepared import Prepared
from graphrebase.rebase.settings import Settings
from graphrebase.runtime.probes import SECONDS
from graphrebase.runtime.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Probes:
    """What a result was fitted on.

    Attributes:
        task: probes; ``added`` of them were generated beside given ones.
        recombined: how many of them are texts put together from the others.
        keep: keep probes.
        held_out: probes that the verdict was measured on.
        refitted: whether these were fitted on after that.
        generated: which of ``task`` and ``keep`` were generated.
        kind: ``text`` or ``image``, where any were generated.
        seconds_allowed: time that generating may take; None if nothing was generated.
        seconds_taken: time that it took; None if nothing was generated.
        note: how they were generated.
    """

    task: int
    added: int
    recombined: int
    keep: int
    held_out: int
    refitted: bool
    generated: tuple[str, ...]
    kind: str
    seconds_allowed: float | None
    seconds_taken: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a rebase did.

    Attributes:
        method: the method that was used; ``why`` says why, under ``auto``.
        alignment: the maps, with what was measured.
        plan: one entry per role.
        files: base, finetuned and target.
        sha256: content hashes of these and (unless a dry run) of the output.
        output: the file written, None after a dry run.
        verdict: what can be said without labels.
        probes: what the result was fitted on; None if on nothing.
        head: what was done to heads that neither base has; None where there are none.
    """

    method: str
    why: str
    alpha: float
    template: str
    lineage: str
    alignment: Alignment
    plan: tuple[Entry, ...]
    files: Mapping[str, Path]
    sha256: Mapping[str, str]
    output: Path | None
    verdict: Verdict
    probes: Probes | None
    head: HeadReport | None = None

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of roles per kind and action."""
        table: dict[str, Counter[str]] = {}
        for entry in self.plan:
            table.setdefault(entry.kind, Counter())[entry.action] += 1
        actions = ("moved", "carried", "copied", "refused")
        return {kind: {a: counts[a] for a in actions} for kind, counts in table.items()}


def rebase(
    base: Path,
    finetuned: Path,
    target: Path,
    output: Path | None,
    settings: Settings,
    *,
    alignment: Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Result:
    """Move the fine-tuning of ``base`` onto ``target``.

    Args:
        base: A, the old base.
        finetuned: A_ft.
        target: B, the new base.
        output: file to write; None only plans.
        settings: method and options.
        alignment: a stored alignment of A and B, in place of ``settings.method``.
        force: replace an existing output.
        progress: told about every step of long work.

    Raises:
        InputError: a file cannot be read.
        MismatchError: the models do not fit together, or the alignment is of others.
        VerificationError: a weight is not finite, or overflows the output type.
        OutputError: the output cannot be written.
    """
    prepared = prepare(
        base, finetuned, target, settings,
        alignment=alignment, output=output, force=force, progress=progress,
    )  # fmt: skip
    case, found = prepared.case, prepared.alignment
    hashes = dict(case.hashes)
    if output is not None:
        progress("writing", 0, 0)
        metadata = {"graphrebase": _provenance(prepared, settings)}
        files = [f for s in case.structures.values() for f in s.model.files]
        prepared.candidate.write(output, metadata, force=force, protected=files)
        hashes["output"] = read_model(output).sha256()
    return Result(
        method=found.method,
        why=prepared.task.why,
        alpha=settings.alpha,
        template=prepared.case.holder.template,
        lineage=found.details.lineage if found.details else "unknown",
        alignment=found,
        plan=prepared.candidate.plan,
        files={"base": base, "finetuned": finetuned, "target": target},
        sha256=hashes,
        output=output,
        verdict=prepared.verdict,
        probes=_probes(prepared),
        head=prepared.head,
    )


def _probes(prepared: Prepared) -> Probes | None:
    probing = prepared.task.probing
    if probing is None:
        return None
    return Probes(
        samples(probing.task),
        probing.added,
        probing.recombined,
        samples(probing.keep),
        prepared.verdict.samples,
        prepared.refitted,
        tuple(sorted(probing.generated)),
        probing.kind,
        SECONDS if probing.generated else None,
        round(probing.seconds, 1) if probing.generated else None,
        probing.note,
    )


def _provenance(prepared: Prepared, settings: Settings) -> str:
    """Return the provenance entry of the output: everything needed to make it again."""
    alignment, verdict = prepared.alignment, prepared.verdict
    record = {
        "tool": f"graphrebase {__version__}",
        "method": alignment.method,
        "options": dict(alignment.options),
        "alpha": settings.alpha,
        "template": prepared.case.holder.template,
        "sha256": dict(prepared.case.hashes),
        "verdict": verdict.verdict,
    }
    if verdict.evidence is not None:
        record["evidence"] = round(verdict.evidence, 4)
    if prepared.head is not None:
        record["new_head"] = _rounded(asdict(prepared.head))
    return json.dumps(record, sort_keys=True)


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}
