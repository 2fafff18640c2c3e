"""The plan of a rebase: for every role of the template, whether it is moved, and how.

theta = theta_B + alpha * pi(theta_A_ft - theta_A), role by role, in the layout of the template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphrebase.align import Alignment, Space, transport
from graphrebase.align.body import FloatArray
from graphrebase.errors import MismatchError, VerificationError
from graphrebase.rebase.folded import FittedMove, FoldedMove
from graphrebase.structure import Role, Structure

#: What can happen to a role.
MOVED, CARRIED, COPIED, REFUSED = "moved", "carried", "copied", "refused"

_MERGED = (
    "the exporter stored several parameters as one tensor, and they would move apart; "
    "kept as in the target"
)

#: Largest difference of values that share a tensor, as a share of the largest of them.
_MERGED_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Entry:
    """What happens to one role of the template.

    Attributes:
        role: its name.
        kind: its kind (attention, mlp, norm, embedding, head, other).
        action: ``moved`` (B + alpha * moved task vector), ``carried`` (only A_ft has it: moved
            into B's basis), ``copied`` (B's or the template's value as it is) or ``refused``.
        reason: why, where it is not moved.
        from_target: whether B's value is written although it is not moved.
    """

    role: str
    kind: str
    action: str
    reason: str = ""
    from_target: bool = False


@dataclass(frozen=True, slots=True)
class Heads:
    """Values of heads that only A_ft has, in B's basis, by role; alpha does not scale them.

    Attributes:
        moved: as A_ft has them.
        refitted: fitted again for what B computes; empty if they were not.
    """

    moved: Mapping[str, FloatArray]
    refitted: Mapping[str, FloatArray] = field(default_factory=dict)

    def get(self, role: str) -> FloatArray | None:
        """Return the value of a role, None where it is of no new head."""
        return self.refitted.get(role, self.moved.get(role))


@dataclass(frozen=True, slots=True)
class TaskVector:
    """The fine-tuning of A, moved onto B, role by role.

    Attributes:
        base, finetuned, target: structures of A, A_ft and B.
        alignment: maps from A's order to B's.
        spaces: spaces of the maps.
        axes: spaces per axis of every role that the pair A, B shares.
        alpha: scale of the task vector.
        folded: moves linear maps in folded form (orthogonal methods); None moves every role by
            itself (permutations).
        resized: A and B differ in width or depth, so that roles of one name need not correspond.
        heads: of heads that only A_ft has; None: each role moves by itself.
    """

    base: Structure
    finetuned: Structure
    target: Structure
    alignment: Alignment
    spaces: Mapping[str, Space]
    axes: Mapping[str, tuple[str | None, ...]]
    alpha: float
    folded: FoldedMove | FittedMove | None = None
    resized: bool = False
    heads: Heads | None = None

    def moved(self, role: str) -> np.ndarray:
        """Return theta_B + alpha * pi(theta_A_ft - theta_A), float64.

        A bias that an exporter dropped because it was zero counts as zero.

        Raises:
            VerificationError: a weight is not finite.
        """
        if self.heads is not None and (known := self.heads.get(role)) is not None:
            return known
        if self.resized:
            change = None if self.folded is None else self.folded.change(role)
            return _finite(self.target, role) + (0.0 if change is None else self.alpha * change)
        change = self._own_change(role)  # first, and then let go: tables are large
        if self.alpha == 0.0:
            return self._values(self.target, role)
        if self.folded is not None and (folded := self.folded.change(role)) is not None:
            change = folded
        else:
            axes = self.axes.get(role) or self._own_axes(role)
            change = transport(change, axes, self.alignment, self.spaces)
        return self._values(self.target, role) + self.alpha * change

    def _own_change(self, role: str) -> np.ndarray:
        new, old = (self._values(s, role) for s in (self.finetuned, self.base))
        return np.asarray(new - old)

    def _values(self, structure: Structure, role: str) -> np.ndarray:
        if role in structure.roles:
            return _finite(structure, role)
        own = next(s for s in (self.finetuned, self.base, self.target) if role in s.roles)
        return np.zeros(own.roles[role].view.shape)

    def carried(self, role: str) -> np.ndarray:
        """Return a role that only A_ft has, in B's basis."""
        if self.heads is not None and (known := self.heads.get(role)) is not None:
            return known
        values = _finite(self.finetuned, role)
        if self.folded is not None and (carried := self.folded.carried(role)) is not None:
            return carried
        return transport(values, self._own_axes(role), self.alignment, self.spaces)

    def _own_axes(self, role: str) -> tuple[str | None, ...]:
        structure = self.finetuned if role in self.finetuned.roles else self.target
        axes = structure.roles[role].axes
        return tuple(a if a in self.spaces else None for a in axes)


def _finite(structure: Structure, role: str) -> np.ndarray:
    values = np.asarray(structure.read(role), np.float64)
    if not np.isfinite(values).all():
        raise VerificationError(
            f"{role} holds NaN or infinite values",
            where=f"{structure.model.path}, tensor '{structure.roles[role].view.tensor}'",
            hint="export the model again from a healthy checkpoint",
        )
    return values


def make_plan(vector: TaskVector, holder: Structure, template: str) -> tuple[Entry, ...]:
    """Return what happens to every role of the template.

    Args:
        vector: the task vector.
        holder: the structure of the template.
        template: ``finetuned`` (A_ft's graph) or ``target`` (B's graph, with A_ft's head).

    Raises:
        MismatchError: the template cannot hold the result.
    """
    entries = [_entry(vector, role, template) for role in holder.roles.values()]
    _check_left_out(vector, holder, template)
    torn = _torn(vector, holder, entries)
    return tuple(
        Entry(e.role, e.kind, REFUSED, _MERGED, from_target=True) if e.role in torn else e
        for e in entries
    )


def _torn(vector: TaskVector, holder: Structure, entries: Iterable[Entry]) -> set[str]:
    """Return vectors that an exporter stored as one although they move apart.

    The legacy exporter of torch merges equal parameters (all the zero biases of a fresh model).
    Where B's are equal too there is one value that is right for B, and it is kept.
    """
    shared: dict[str, list[str]] = {}
    for entry in entries:
        view = holder.roles[entry.role].view
        if entry.action == MOVED and view.whole and len(view.shape) == 1:
            shared.setdefault(view.tensor, []).append(entry.role)
    torn: set[str] = set()
    for roles in shared.values():
        if len(roles) < 2 or not _equal([_target_values(vector, role) for role in roles]):
            continue
        if not _equal([vector.moved(role) for role in roles]):
            torn.update(roles)
    return torn


def _target_values(vector: TaskVector, role: str) -> np.ndarray:
    """Return B's value of a role; a bias that its exporter dropped is zero."""
    if role in vector.target.roles:
        return _finite(vector.target, role)
    return np.zeros(vector.finetuned.roles[role].view.shape)


def _equal(arrays: Sequence[np.ndarray]) -> bool:
    """Tell whether values are the same up to the rounding of float32."""
    first, *others = arrays
    allowed = _MERGED_TOLERANCE * max(float(np.abs(a).max(initial=1e-12)) for a in arrays)
    return all(
        a.shape == first.shape and np.allclose(a, first, rtol=0.0, atol=allowed) for a in others
    )


def _entry(vector: TaskVector, role: Role, template: str) -> Entry:
    name, kind = role.name, role.kind
    if template == "target" and kind == "head" and not _has_same(vector.target, role):
        return Entry(name, kind, CARRIED, "only the fine-tuned model has it")
    if vector.resized:
        solved = isinstance(vector.folded, FittedMove) and name in vector.folded.changes
        why = "" if solved else "the fit leaves it as the target has it"
        return Entry(name, kind, MOVED if solved else COPIED, why)
    base, new, goal = (s.roles.get(name) for s in (vector.base, vector.finetuned, vector.target))
    same_old = base is not None and new is not None and base.view.shape == new.view.shape
    same_new = goal is not None and new is not None and goal.view.shape == new.view.shape
    if same_old and same_new:
        merged = vector.folded is not None and name in vector.folded.kept
        return Entry(name, kind, MOVED, "merged into the maps that read it" if merged else "")
    if name.endswith(".bias") and kind != "head" and (same_old or same_new):
        return Entry(name, kind, MOVED)
    if template == "target":
        return Entry(name, kind, COPIED, "only the target has it")
    if not same_old and kind == "head":
        return Entry(name, kind, CARRIED, "only the fine-tuned model has it")
    if kind == "other" and same_old and _unchanged(vector, name):
        return Entry(name, kind, COPIED, "a constant that fine-tuning left alone")
    if kind == "head":
        return Entry(name, kind, CARRIED, "the target has no such head")
    if any(role.axes):
        raise MismatchError(
            f"{name} (tensor '{role.view.tensor}') has no counterpart in the other models",
            hint="the three models must be exports of one architecture; compare them with "
            "`graphrebase inspect`",
        )
    return Entry(name, kind, REFUSED, "no counterpart in the other models; kept as fine-tuned")


def _has_same(model: Structure, role: Role) -> bool:
    """Tell whether a model has a role in the same shape."""
    own = model.roles.get(role.name)
    return own is not None and own.view.shape == role.view.shape


def _unchanged(vector: TaskVector, name: str) -> bool:
    return bool(np.array_equal(vector.base.read(name), vector.finetuned.read(name)))


def _check_left_out(vector: TaskVector, holder: Structure, template: str) -> None:
    """Refuse a template without a place for a weight that the result needs."""
    if vector.resized:
        return  # the result is B's own graph, and the fit names what it changes there
    other = vector.target if template == "finetuned" else vector.finetuned
    for name, role in other.roles.items():
        if role.kind in ("other", "head") or _has_same(holder, role):
            continue
        if name.endswith(".bias") and not np.any(other.read(name)):
            continue
        raise MismatchError(
            f"the {template} graph has no place for {name}",
            where=str(holder.model.path),
            hint="try the other --template, or export both models with the same exporter",
        )


def replacements(
    vector: TaskVector, plan: Iterable[Entry], holder: Structure
) -> dict[str, Callable[[], np.ndarray]]:
    """Return, for every constant of the template that changes, a function that computes it."""
    by_tensor: dict[str, list[Entry]] = {}
    for entry in plan:
        if entry.action in (MOVED, CARRIED) or entry.from_target:
            by_tensor.setdefault(holder.roles[entry.role].view.tensor, []).append(entry)
    return {
        tensor: _Builder(vector, holder, tensor, tuple(entries))
        for tensor, entries in by_tensor.items()
    }


@dataclass(frozen=True, slots=True)
class _Builder:
    """Compute the new value of one constant when called, and nothing before."""

    vector: TaskVector
    holder: Structure
    tensor: str
    entries: tuple[Entry, ...]

    def __call__(self) -> np.ndarray:
        stored = np.array(self.holder.model.tensors[self.tensor].load(), dtype=np.float64)
        written = {}
        for entry in self.entries:
            values = self._value(entry)
            self.holder.roles[entry.role].view.write(stored, values)
            if len(self.entries) > 1:
                written[entry.role] = values
        for role, values in written.items():
            self._check_agreement(role, values, stored)
        return stored

    def _value(self, entry: Entry) -> np.ndarray:
        if entry.from_target:
            return _target_values(self.vector, entry.role)
        act = self.vector.moved if entry.action == MOVED else self.vector.carried
        return act(entry.role)

    def _check_agreement(self, role: str, values: np.ndarray, stored: np.ndarray) -> None:
        kept = self.holder.roles[role].view.read(stored)
        if not _equal([kept, values]):
            roles = ", ".join(entry.role for entry in self.entries)
            raise MismatchError(
                f"the template stores {roles} in one tensor, but they now differ",
                where=f"{self.holder.model.path}, tensor '{self.tensor}'",
                hint="try the other --template, or an export that does not merge equal tensors",
            )
