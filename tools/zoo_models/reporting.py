"""The text of the zoo report."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from zoo_models.checking import Finding
from zoo_models.entry import export_path, family_of, is_held_out

BLOCK_QUANTISED = ("+nbits", "+blocks")


def render(findings: Sequence[Finding]) -> str:
    """Return the report as Markdown: table, frozen axes, what does not export, summary."""
    exported = [f for f in findings if not f.failure.startswith("not exported")]
    refused = [f for f in findings if f.failure.startswith("not exported")]
    parts = [
        _table(exported),
        _frozen(exported),
        _refused(refused),
        _summary(exported, len(refused)),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(findings: Iterable[Finding]) -> str:
    head = "| architecture | export path | groups | missing | error | controls | blocks | CPU s |"
    rows = [head, "|---" * 8 + "|"]
    for f in findings:
        cells = [family_of(f.name), export_path(f.name), *(_cells(f))]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cells(f: Finding) -> Iterator[str]:
    if f.failure:
        yield from ("", f.failure[:80], "", "", "", "")
        return
    found = sum(min(pair) for pair in f.groups.values())
    yield f"{found}/{sum(nominal for _, nominal in f.groups.values())}"
    yield ", ".join(f"{kind} {a}/{b}" for kind, (a, b) in f.missing.items())
    error = "not run" if f.error is None else f"{f.error:.0e}"
    yield f"**UNSOUND** {error}" if f.guilty else error
    yield "{}/{}".format(*f.controls)
    yield "wrong" if f.blocks else "right"
    yield f"{f.seconds:.2f}"


def _frozen(findings: Iterable[Finding]) -> str:
    """Return reasons, most frequent first, with the number of models and axes."""
    axes, models = Counter[str](), defaultdict[str, set[str]](set)
    for finding in findings:
        for reason, count in finding.frozen.items():
            plain = re.sub(r"'[^']*'", "'..'", reason)
            axes[plain] += count
            models[plain].add(finding.name)
    if not axes:
        return ""
    rows = ["| frozen because | models | axes |", "|---|---|---|"]
    for reason, count in sorted(axes.items(), key=lambda item: -len(models[item[0]])):
        rows.append(f"| {reason} | {len(models[reason])} | {count} |")
    return "\n".join(rows)


def _refused(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = ["| does not export | the exporter's reason |", "|---|---|"]
    for f in findings:
        reason = " ".join(f.failure.removeprefix("not exported: ").split())[:160].replace("|", "/")
        rows.append(f"| {f.name} | {reason} |")
    return "\n".join(rows)


def _summary(findings: Sequence[Finding], refused: int) -> str:
    aside = [f for f in findings if is_held_out(f.name)]
    known = [f for f in findings if not is_held_out(f.name)]
    blockwise = [f for f in known if export_path(f.name).endswith(BLOCK_QUANTISED)]
    others = [f for f in known if not export_path(f.name).endswith(BLOCK_QUANTISED)]
    parts = (("models", others), ("block-quantised", blockwise), ("held out", aside))
    lines = [f"{name}: {_counts(part)}" for name, part in parts if part]
    return "\n".join([*lines, f"{refused} combinations do not export"])


def _counts(findings: Sequence[Finding]) -> str:
    total = len(findings)
    nominal = sum(not f.failure and not f.missing for f in findings)
    sound = sum(f.sound for f in findings)
    ran = sum(f.error is not None for f in findings)
    right = sum(not f.failure and not f.blocks for f in findings)
    noticed, groups = (sum(f.controls[i] for f in findings) for i in (0, 1))
    crashes = sum(bool(f.failure) for f in findings)
    seconds = max((f.seconds for f in findings), default=0.0)
    return (
        f"{nominal} of {total} reach nominal, {sound} of {total} sound ({ran} run), "
        f"{right} of {total} with the right blocks, {noticed} of {groups} controls noticed, "
        f"{crashes} crashes, at most {seconds:.2f} CPU s"
    )
