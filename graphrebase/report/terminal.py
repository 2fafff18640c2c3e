"""What commands did, on the terminal. Every function takes the plain data of one command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from graphrebase.report.cells import make_facts, make_table
from graphrebase.report.data import by_reason

MANY = 12
"""Roles of one reason beyond which the terminal shows only the first."""
Data = Mapping[str, Any]


def inspect_tables(data: Data) -> list[RenderableType]:
    """Render blocks as a tree, groups and frozen axes as tables."""
    tree = Tree(escape(f"{data['model']}  (opset {data['opset']}, {data['nodes']} nodes)"))
    for block in data["blocks"]:
        tree.add(escape(_block_line(block)))
    groups = make_table(
        "symmetry groups",
        ("group", "kind", "size", "count", "tensors"),
        (
            (g["name"], g["kind"], g["size"], g["count"], len({m["tensor"] for m in g["members"]}))
            for g in data["groups"]
        ),
    )
    items: list[RenderableType] = [tree, groups, *_frozen_tables(data)]
    if data["near_misses"]:
        rows = ((m["pattern"], m["node"], m["reason"]) for m in data["near_misses"])
        items.append(make_table("near misses", ("pattern", "node", "reason"), rows))
    if data["operators_without_rule"]:
        counts = data["operators_without_rule"].items()
        items.append(make_table("operators without a rule (frozen)", ("operator", "uses"), counts))
    share = f"{data['coverage']:.1%} of {data['parameters']:,} parameters have a role"
    return [*items, share]


def _block_line(block: Data) -> str:
    if block["kind"] == "attention":
        heads = f"{block['heads']} heads"
        if block["kv_heads"] != block["heads"]:
            heads += f" on {block['kv_heads']} key-value heads"
        packed = ", packed q/k/v" if block["packed"] else ""
        detail = f"{heads} x {block['head_dim']}, hidden {block['hidden']}{packed}"
    else:
        gated = ", gated" if block["gated"] else ""
        detail = f"width {block['width']}, hidden {block['hidden']}{gated}"
    return f"{block['name']}: {detail}"


def _frozen_tables(data: Data) -> list[RenderableType]:
    named = [f for f in data["frozen"] if "[" not in f["axis"]]
    rest = Counter(f["reason"] for f in data["frozen"] if "[" in f["axis"])
    items: list[RenderableType] = []
    if named:
        rows = ((f["axis"], f["size"], f["reason"]) for f in named)
        items.append(make_table("frozen", ("axis", "size", "reason"), rows))
    if rest:
        items.append(make_table("frozen tensor axes", ("reason", "axes"), rest.items()))
    return items


def alignment_tables(data: Data) -> list[RenderableType]:
    """Render how good an alignment is."""
    facts: list[tuple[str, object]] = [
        ("method", f"{data['method']} ({data['why']})"),
        ("lineage", data["lineage"]),
    ]
    found = data["alignment"]
    if found:
        facts += [
            ("score", f"{found['score']:.3f} (0 random maps, 1 perfect match)"),
            ("against random maps", f"{found['z']:.1f} standard deviations"),
        ]
        if found["beyond_chance"] is not None:
            chance = f"{found['beyond_chance']:.3f} (0: the same method on shuffled weights)"
            facts.append(("beyond chance", chance))
    facts.append(("indices that stay", f"{data['identity_share']:.1%}"))
    if data.get("output"):
        facts.append(("written", data["output"]))
    return [make_facts("alignment", facts)]


def rebase_tables(data: Data) -> list[RenderableType]:
    """Render what a rebase moved, and what it did not and why."""
    roles = make_table(
        f"roles (alpha {data['alpha']:g}, template {data['template']})",
        ("kind", "moved", "carried", "copied", "refused"),
        (
            (kind, c["moved"], c["carried"], c["copied"], c["refused"])
            for kind, c in data["roles"].items()
        ),
    )
    items: list[RenderableType] = [*alignment_tables({**data, "output": None}), roles]
    if data["exceptions"]:
        items.append(
            make_table(
                "carried, copied or refused", ("role", "action", "reason"), _exceptions(data)
            )
        )
    if data["new_head"] is not None:
        items.append(_head_facts(data["new_head"]))
    items.append(_verdict_facts(data))
    items.append(f"outlook: {escape(data['outlook'])}")
    items.append(escape(f"written: {data['output'] or 'nothing (dry run)'}"))
    return items


def _exceptions(data: Data) -> list[tuple[list[str], str, str]]:
    """Return what was not moved, a row for each reason."""
    return [
        (_listed(roles), action, reason) for action, reason, roles in by_reason(data["exceptions"])
    ]


def _listed(roles: list[str]) -> list[str]:
    """Return the lines that name roles: all, or the first and how many more."""
    return roles if len(roles) <= MANY else [roles[0], f"and {len(roles) - 1} more"]


def _head_facts(head: Data) -> Table:
    """Render what was done to a head that neither base has, beside its control."""
    facts: list[tuple[str, object]] = [("maps", ", ".join(head["heads"]))]
    if not head["refitted"]:
        facts.append(("moved, not fitted again", head["reason"]))
        return make_facts("new head", facts)
    facts += [
        ("fitted again on", f"{head['probes']} probes"),
        ("far from fine-tuned", f"{head['lost']:.3g} nats ({head['moved']:.3g} if only moved)"),
        (
            "control, target untouched",
            f"{head['control']:.3g} nats ({head['control_moved']:.3g} if only moved)",
        ),
        ("kept", f"the {head['kept']}, by {head['by']}"),
    ]
    return make_facts("new head", facts)


def _verdict_facts(data: Data) -> Table:
    """Render what the result was fitted on, and what is known of it without labels."""
    found, probes = data["verdict"], data["probes"]
    facts: list[tuple[str, object]] = [("verdict", f"{found['verdict']} ({found['reason']})")]
    if found["evidence"] is not None:
        facts.append(("evidence E", f"{found['evidence']:.2f} (1: all that was asked for)"))
        facts += [(f"E of {name}", f"{score:.2f}") for name, score in found["rivals"].items()]
    if found["agreement"] is not None:
        warning = ": loss may recover without accuracy" if found["loss_only"] else ""
        of_what = " (fine-tuned, and target + fine-tuned - base, choose the same)"
        facts.append(("agreement", f"{found['agreement']:.0%}{of_what}{warning}"))
    if probes is not None:
        facts.append(("fitted on", probes_text(probes)))
    return make_facts("without labels", facts)


def probes_text(probes: Data) -> str:
    """Say what a result was fitted on."""
    parts = []
    more = {"generated": probes["added"], "recombined": probes["recombined"]}
    for name, others, what in (("task", more, "probes"), ("keep", {}, "keep probes")):
        count = probes[name]
        origin = "generated" if name in probes["generated"] else "given"
        named = "".join(f" and {n} {how}" for how, n in others.items() if n)
        own = count - sum(others.values())
        parts.append(f"{own} {origin}{named} {what}" if count else f"no {what}")
    if probes["refitted"]:
        parts.append("those held out for the verdict among them")
    if probes["seconds_allowed"] is not None:
        taken, allowed = probes["seconds_taken"], probes["seconds_allowed"]
        parts.append(f"{taken:.0f} of {allowed:.0f} s for generating")
    return ", ".join(parts)


def permute_tables(data: Data) -> list[RenderableType]:
    """Render what was permuted and how close the outputs are."""
    groups = ", ".join(f"{n} {kind}" for kind, n in data["groups_permuted"].items()) or "none"
    facts = [
        ("groups permuted", groups),
        ("initializers changed", data["initializers_changed"]),
        ("nodes added", data["gathers_added"]),
    ]
    if data["checked"]:
        share = f"{data['relative_error']:.2e} ({data['tolerance']:.0e} allowed)"
        facts += [("largest error", f"{data['max_abs_error']:.2e}"), ("of the output scale", share)]
    if data["check_note"]:
        facts.append(("check" if data["checked"] else "UNVERIFIED", data["check_note"]))
    if data["not_seen"]:
        kinds = ", ".join(data["not_seen"])
        facts.append(
            ("not seen", f"{kinds}: no output depends on their order (a saturated scale?)")
        )
    facts.append(("written", data["output"]))
    items: list[RenderableType] = [make_facts(f"permuted ({data['origin']})", facts)]
    for name, moved in data["interface"].items():
        for entry in moved:
            over = f" at each index of axis {entry['over']}" if "over" in entry else ""
            items.append(escape(f"{name}, axis {entry['axis']}{over}: {entry['permutation']}"))
    return items


def verify_tables(data: Data) -> list[RenderableType]:
    """Render a comparison of two models."""
    verdict = "same" if data["passed"] else "DIFFERENT"
    if "differences" in data:
        lines = [escape(f"  {line}") for line in data["differences"]]
        return [f"structure: {verdict}", *lines]
    facts = [
        ("outputs", verdict),
        ("largest error", f"{data['max_abs_error']:.2e}"),
        ("of the output scale", f"{data['relative_error']:.2e} ({data['tolerance']:.0e} allowed)"),
        ("worst output", data["worst_output"]),
    ]
    return [make_facts("verify", facts)]
