"""Checks of one entry: groups and blocks against the nominal ones, permutations, controls."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphrebase.errors import GraphRebaseError
from graphrebase.io import read_model, write_model
from graphrebase.rebase.basis import Basis, leave_one_out, random_basis
from graphrebase.rebase.interface import moved_inputs, moved_outputs
from graphrebase.runtime import Session, equivalent, model_tolerance
from graphrebase.structure import Structure, find_structure, summary
from graphrebase.symmetry import Group
from zoo_models.entry import ZooEntry
from zoo_models.nominal import Nominal

FREE = ("latent", "state")
ATTEMPTS = 4  # members left out, one after the other, until a control notices
NOTICED = 10.0  # a control must exceed rounding error this many times
EXACT = 1e-5  # the least that a control must exceed

Feeds = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the report says about one entry.

    Attributes:
        groups: found and nominal number of groups, by kind.
        blocks: what is wrong with the blocks; empty if they are right.
        error: largest error of a permuted model, relative to the output scale; None if not run.
        tolerance: the error that rounding explains.
        guilty: groups that change the function.
        controls: how many controls noticed a member left out, and how many groups there are.
        silent: groups whose control noticed nothing.
        idle: groups of weights that the outputs do not depend on; no control can notice them.
        frozen: axes kept, by reason.
        seconds: CPU seconds of reading and analysing.
        failure: why there is no finding at all.
    """

    name: str
    groups: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    blocks: str = ""
    error: float | None = None
    tolerance: float = 0.0
    guilty: tuple[str, ...] = ()
    controls: tuple[int, int] = (0, 0)
    silent: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    frozen: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    not_run: str = ""
    failure: str = ""

    @property
    def missing(self) -> dict[str, tuple[int, int]]:
        """Return the kinds of which fewer groups were found than the architecture has."""
        return {kind: pair for kind, pair in self.groups.items() if pair[0] < pair[1]}

    @property
    def sound(self) -> bool:
        """Whether every group kept the function, as far as it could be run."""
        return not self.failure and not self.guilty


def examine(entry: ZooEntry, path: str) -> Finding:
    """Analyse an entry, compare with its nominal structure and permute every group.

    Args:
        entry: the entry.
        path: its export path, for what is nominal there.
    """
    started = time.process_time()
    structure = find_structure(read_model(entry.path), free=FREE)
    seconds = time.process_time() - started
    told = summary(structure)
    found = Counter(group["kind"] for group in told["groups"])
    expected = entry.nominal.free_groups(path)
    finding = Finding(
        entry.name,
        groups={kind: (found[kind], count) for kind, count in expected.items() if count},
        blocks=wrong_blocks(told["blocks"], entry.nominal),
        frozen=dict(Counter(item["reason"] for item in told["frozen"])),
        tolerance=model_tolerance(structure.model),
        seconds=seconds,
    )
    if not entry.info["runs"]:
        return replace(finding, not_run=entry.info["why_not"])
    return _permuted(finding, structure, list(entry.inputs.values()))


def wrong_blocks(blocks: Sequence[Mapping[str, Any]], nominal: Nominal) -> str:
    """Return how the blocks differ from the nominal ones, or nothing."""
    attention = Counter(
        (b["heads"], b["kv_heads"], b["head_dim"], b["hidden"])
        for b in blocks
        if b["kind"] == "attention"
    )
    mlps = Counter((b["width"], b["hidden"], b["gated"]) for b in blocks if b["kind"] == "mlp")
    right, right_mlps = Counter[Any](), Counter[Any]()
    for t in nominal.towers:
        if t.heads:
            right[t.heads, t.kv_heads, t.head_dim, t.hidden] += t.layers
        if t.mlp:
            right_mlps[t.mlp, t.hidden, t.gated] += t.layers
    wrong = []
    if attention != right:
        wrong.append(f"attention (h, kv, d, H) {_table(attention)}, nominal {_table(right)}")
    if mlps != right_mlps:
        wrong.append(f"mlp (width, H, gated) {_table(mlps)}, nominal {_table(right_mlps)}")
    return "; ".join(wrong)


def _table(counts: Mapping[Any, int]) -> str:
    return " ".join(f"{n}x{key}" for key, n in counts.items()) or "none"


def _permuted(finding: Finding, structure: Structure, feeds: Feeds) -> Finding:
    symmetry = structure.symmetry
    if not symmetry.groups:
        return finding
    names = _group_names(structure)
    whole = random_basis(symmetry, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        check = _Check(structure, Path(folder) / structure.model.path.name, feeds)
        error = check.error(whole, whole.replacements())
        named = list(zip(names, symmetry.groups, strict=True))
        parts = {name: _only(whole, group) for name, group in named}
        guilty: dict[str, float] = {}
        if not error <= finding.tolerance:
            guilty = {n: check.error(part, part.replacements()) for n, part in parts.items()}
            guilty = {n: e for n, e in guilty.items() if not e <= finding.tolerance}
            guilty = guilty or {"all together": error}
        limit = _limit(error) if not guilty else finding.tolerance
        quiet = {n: group for n, group in named if not check.notices(parts[n], group, limit)}
        limits = dict.fromkeys(quiet, limit)
        if not guilty:
            # Rounding adds up over groups (8-bit activations): look again, at one group alone.
            limits = {n: _limit(check.error(parts[n], parts[n].replacements())) for n in quiet}
            quiet = {
                n: group
                for n, group in quiet.items()
                if not check.notices(parts[n], group, limits[n], attempts=len(group.members))
            }
        idle = [n for n, group in quiet.items() if check.is_idle(parts[n], group, limits[n])]
    counted = len(parts) - len(idle)
    return replace(
        finding,
        error=error,
        guilty=tuple(f"{name} ({e:.1e})" for name, e in guilty.items()),
        controls=(len(parts) - len(quiet), counted),
        silent=tuple(name for name in quiet if name not in idle),
        idle=tuple(idle),
    )


def _limit(error: float) -> float:
    return max(NOTICED * error, EXACT)


def _group_names(structure: Structure) -> list[str]:
    names = [group["name"] for group in summary(structure)["groups"]]
    seen = Counter[str]()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = f"{name}#{seen[name]}" if seen[name] > 1 else name
    return names


def _only(basis: Basis, group: Group) -> Basis:
    """Return the part of a change of basis that permutes one group."""
    roots = {leaf.root for leaf in group.leaves}
    kept = {axis: index for axis, index in basis.permutations.items() if axis in roots}
    return Basis(basis.symmetry, kept)


class _Check:
    """Permuted models against the original, on the same inputs."""

    def __init__(self, structure: Structure, path: Path, feeds: Feeds) -> None:
        self.model, self.path, self.feeds = structure.model, path, feeds
        self.reference = Session(structure.model.path)

    def error(self, basis: Basis, replacements: Mapping[str, Callable[[], np.ndarray]]) -> float:
        """Return the relative error of the model with these weights; inf where it fails."""
        write_model(self.model, self.path, dict(replacements), {}, force=True)
        try:
            change = basis.symmetry, basis.permutations
            return equivalent(
                self.reference,
                Session(self.path),
                self.feeds,
                inputs=moved_inputs(*change),
                outputs=moved_outputs(*change),
            ).relative
        except GraphRebaseError:
            return float("inf")

    def notices(self, basis: Basis, group: Group, limit: float, attempts: int = ATTEMPTS) -> bool:
        """Whether leaving one member of the group out is seen; matrices are tried first."""
        made, tensors = basis.replacements(), self.model.tensors
        names = dict.fromkeys(member.tensor for member in group.members)
        changed = [n for n in names if not np.array_equal(made[n](), tensors[n].load())]
        if len(changed) == 1:  # packed in one tensor: leave half of what moves out
            mixed = _half(tensors[changed[0]].load(), made[changed[0]]())
            return self.error(basis, {changed[0]: lambda: mixed}) > limit
        changed.sort(key=lambda n: -len(tensors[n].shape))
        for tensor in changed[:attempts]:
            if self.error(basis, leave_one_out(basis, [tensor])) > limit:
                return True
        return False

    def is_idle(self, basis: Basis, group: Group, limit: float) -> bool:
        """Whether the outputs ignore a group's weights (DETR: what attends to queries of zeros).

        No weight that this group permutes may matter, so each is shuffled. Its values stay those
        that quantised activations were calibrated with.
        """
        made, tensors = basis.replacements(), self.model.tensors
        for name in dict.fromkeys(member.tensor for member in group.members):
            old = tensors[name].load()
            changed = np.random.default_rng(0).permutation(old.reshape(-1)).reshape(old.shape)
            if self.error(basis, {**made, name: partial(_itself, changed)}) > limit:
                return False
        return True


def _itself(values: np.ndarray) -> np.ndarray:
    return values


def _half(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the new values with the first half of the places that differ as they were."""
    mixed = new.copy()
    places = np.flatnonzero(old.reshape(-1) != new.reshape(-1))
    kept = places[: len(places) // 2]
    mixed.reshape(-1)[kept] = old.reshape(-1)[kept]
    return mixed
