"""Results as plain data, and plain data as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrebase.align import Alignment, identity_share

if TYPE_CHECKING:  # commands that only look at a model need not import what moves weights
    from graphrebase.rebase import Result
    from graphrebase.runtime.verdict import Verdict

#: Raised when the meaning of an entry changes; new entries do not change it.
SCHEMA_VERSION = 1


def to_json(data: Mapping[str, Any]) -> str:
    """Return one JSON object with ``schema_version``; numbers that are not finite become null."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **_plain(data)}, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return str(value) if isinstance(value, Path) else value


def alignment_data(alignment: Alignment, why: str, output: Path | None = None) -> dict[str, Any]:
    """Return what is known of an alignment: how good, against which null, of what lineage."""
    data: dict[str, Any] = {
        "method": alignment.method,
        "why": why,
        "options": dict(alignment.options),
        "sha256": {"base": alignment.sha256_a, "target": alignment.sha256_b},
        "spaces": len(alignment.maps),
        "identity_share": identity_share(alignment),
        "lineage": "unknown",
        "alignment": None,
    }
    if output is not None:
        data["output"] = str(output)
    details = alignment.details
    if details is not None:
        data["lineage"] = details.lineage
        data["alignment"] = {
            "objective": details.objective,
            "ceiling": details.ceiling,
            "score": details.score,
            "null_mean": details.null_mean,
            "null_std": details.null_std,
            "z": details.z,
            "beyond_chance": details.beyond_chance,
            "sweeps": details.sweeps,
            "identity_cosine": details.identity_cosine,
            "identity_z": details.identity_z,
            "space_scores": dict(details.space_scores),
        }
    return data


def rebase_data(result: Result) -> dict[str, Any]:
    """Return everything a rebase did."""
    return {
        **alignment_data(result.alignment, result.why),
        "alpha": result.alpha,
        "template": result.template,
        "lineage": result.lineage,
        "outlook": outlook(result),
        "verdict": verdict_data(result.verdict),
        "probes": None if result.probes is None else asdict(result.probes),
        "new_head": None if result.head is None else asdict(result.head),
        "roles": result.counts,
        "exceptions": [asdict(e) for e in result.plan if e.action != "moved"],
        "files": {name: str(path) for name, path in result.files.items()},
        "sha256": dict(result.sha256),
        "output": None if result.output is None else str(result.output),
    }


def by_reason(exceptions: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, list[str]]]:
    """Return (action, reason, roles) of what was not moved, in order of first appearance."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in exceptions:
        groups.setdefault((entry["action"], entry["reason"]), []).append(entry["role"])
    return [(*key, roles) for key, roles in groups.items()]


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """Return what can be said of a result without labels."""
    return {
        "verdict": verdict.verdict,
        "evidence": verdict.evidence,
        "reason": verdict.reason,
        "agreement": verdict.agreement,
        "loss_only": verdict.loss_only,
        "held_out": verdict.samples,
        "predictions": verdict.scored,
        "rivals": dict(verdict.rivals),
    }


def outlook(result: Result) -> str:
    """Say in a sentence whether the move is likely to help, from lineage and alignment."""
    details, evidence = result.alignment.details, result.verdict.evidence
    if evidence is not None:
        return (
            f"about {max(evidence, 0):.0%} of the fine-tuning's gain is recovered, as far as "
            f"held-out inputs without labels can tell: {result.verdict.verdict}"
        )
    if result.lineage in ("identical", "same lineage"):
        return "base and target are close relatives: the fine-tuning usually transfers"
    if result.lineage == "permuted":
        return "target is the base in another order: the fine-tuning transfers"
    if details is not None and result.method == "anchored":
        return (
            "base and target were trained independently: an orthogonal alignment from weights "
            "alone recovers a small part of a fine-tuning; evaluate before you deploy"
        )
    if result.method == "fit":
        return (
            "base and target were trained independently: the fit follows the fine-tuning on its "
            "probes; evaluate before you deploy"
        )
    if details is None or details.beyond_chance is None:
        return "not measured"
    return (
        "base and target were trained independently: permutations recover little of a "
        "fine-tuning here; evaluate before you deploy"
    )
