"""Line up two models by structure: which roles correspond, which spaces both allow to move."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from graphrebase.align import AlignmentProblem, Space, Weight
from graphrebase.errors import MismatchError
from graphrebase.io import is_float
from graphrebase.rebase.ends import find_streams
from graphrebase.structure import Role, Structure

#: Roles of these kinds make an architecture; a head may come and go with the task.
_BODY = ("embedding", "attention", "mlp", "norm")


@dataclass(frozen=True, slots=True)
class Pairing:
    """What two models have in common.

    Attributes:
        roles: names of the roles that both have in the same shape.
        axes: spaces per axis of each role, where both models allow them.
        spaces: the spaces that are left.
        fixed: head spaces that must keep their order in either model.
    """

    roles: tuple[str, ...]
    axes: Mapping[str, tuple[str | None, ...]]
    spaces: Mapping[str, Space]
    fixed: frozenset[str]


def check_architecture(one: Structure, other: Structure, names: tuple[str, str]) -> None:
    """Check that the bodies of two models are the same architecture.

    Args:
        one: the first structure.
        other: the second structure.
        names: what to call them in messages ("base", "target").

    Raises:
        MismatchError: no blocks were found, or blocks, widths or head layouts differ.
    """
    _check_recognised(one, other, names)
    left, right = _body(one), _body(other)
    missing = [n for n in left if n not in right and not n.endswith(".bias")]
    extra = [n for n in right if n not in left and not n.endswith(".bias")]
    where = f"{one.model.path} and {other.model.path}"
    hint = "both must be releases of one architecture; compare them with `graphrebase inspect`"
    if missing or extra:
        owner, lacking = names if missing else names[::-1]
        name = (missing or extra)[0]
        raise MismatchError(
            f"different architectures: {name} exists in the {owner} model, "
            f"but not in the {lacking} model ({len(missing) + len(extra)} such differences)",
            where=where,
            hint=hint,
        )
    for name, role in left.items():
        if name in right and right[name].view.shape != role.view.shape:
            raise MismatchError(
                f"different architectures: {name} has shape {role.view.shape} in the {names[0]} "
                f"model and {right[name].view.shape} in the {names[1]} model",
                where=where,
                hint=hint,
            )


def check_floats(structure: Structure, name: str) -> None:
    """Check that a model is not quantised: integers cannot take a task vector without loss.

    Raises:
        MismatchError: the model is quantised; it says which roles are.
    """
    if not structure.quantized:
        return
    model = structure.model
    roles = {n: r.view.tensor for n, r in structure.roles.items()}
    integers = [n for n, t in roles.items() if not is_float(model.tensors[t].dtype)]
    shown = [f"{n} (tensor '{roles[n]}', {model.tensors[roles[n]].dtype})" for n in integers[:3]]
    more = f" and {len(integers) - 3} further roles" if len(integers) > 3 else ""
    reason = f": {', '.join(shown)}{more}" if shown else ": its scales hold for its own weights"
    raise MismatchError(
        f"the {name} model is quantised, and quantising moved weights again loses what they say"
        + reason,
        where=str(model.path),
        hint="rebase the float models and quantise the result",
    )


def _check_recognised(one: Structure, other: Structure, names: tuple[str, str]) -> None:
    for structure, name in ((one, names[0]), (other, names[1])):
        if not structure.blocks:
            raise MismatchError(
                f"no attention or MLP block was recognised in the {name} model",
                where=str(structure.model.path),
                hint="look at `graphrebase inspect` for near misses",
            )
        check_floats(structure, name)


def sizes(structure: Structure) -> str:
    """Return depth and width of every residual stream of a model, for people."""
    streams = find_streams(structure)
    return " and ".join(
        f"{len(s.blocks)} attention and MLP layers of width {s.width}" for s in streams
    )


def same_sizes(one: Structure, other: Structure) -> bool:
    """Return whether two models have the same blocks, in width, depth, heads and hidden units."""
    left, right = (
        {
            name: role.view.shape
            for name, role in _body(structure).items()
            if role.kind in ("attention", "mlp") and not name.endswith(".bias")
        }
        for structure in (one, other)
    )
    return left == right


def check_family(one: Structure, other: Structure, names: tuple[str, str]) -> None:
    """Check that two models are of one family, of any size.

    Args:
        one: the first structure.
        other: the second structure.
        names: what to call them in messages ("base", "target").

    Raises:
        MismatchError: no blocks were found, or they consist of other parts.
    """
    _check_recognised(one, other, names)
    facts: list[tuple[str, list[object]]] = [
        ("parts of a block", [_parts(s) for s in (one, other)]),
        ("norms", [sorted({str(m.facts.get("norm")) for m in s.norms}) for s in (one, other)]),
        ("residual streams", [len(find_streams(s)) for s in (one, other)]),
    ]
    for what, (left, right) in facts:
        if left != right:
            raise MismatchError(
                f"different architectures: the {what} are {_told(left)} in the {names[0]} model "
                f"and {_told(right)} in the {names[1]} model",
                where=f"{one.model.path} and {other.model.path}",
                hint="both must be of one family, in any size; compare them with "
                "`graphrebase inspect`",
            )


def _parts(structure: Structure) -> list[str]:
    roles = (n for n, r in structure.roles.items() if r.kind in ("attention", "mlp"))
    return sorted({name.split(".", 2)[2] for name in roles if not name.endswith(".bias")})


def _told(fact: object) -> str:
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def _body(structure: Structure) -> dict[str, Role]:
    return {name: role for name, role in structure.roles.items() if role.kind in _BODY}


def pair(one: Structure, other: Structure) -> Pairing:
    """Return what two models have in common, after ``check_architecture``."""
    shared = [
        name
        for name, role in one.roles.items()
        if name in other.roles and other.roles[name].view.shape == role.view.shape
    ]
    usable = _usable_spaces(one, other, shared)
    axes = {
        name: tuple(space if space in usable else None for space in one.roles[name].axes)
        for name in shared
    }
    spaces = {name: one.spaces[name] for name in one.spaces if name in usable}
    fixed = (one.fixed | other.fixed) & set(spaces)
    return Pairing(tuple(shared), axes, spaces, frozenset(fixed))


def _usable_spaces(one: Structure, other: Structure, roles: Collection[str]) -> set[str]:
    """Return the spaces on which both models agree in every role."""
    usable = {name for name, space in one.spaces.items() if other.spaces.get(name) == space}
    for name in roles:
        for left, right in zip(one.roles[name].axes, other.roles[name].axes, strict=True):
            if left != right:
                usable -= {left, right}
    return {n for n in usable if one.spaces[n].over is None or one.spaces[n].over in usable}


def build_problem(one: Structure, other: Structure, pairing: Pairing) -> AlignmentProblem:
    """Return the alignment problem of two paired models."""
    weights = tuple(
        Weight(name, pairing.axes[name], partial(one.read, name), partial(other.read, name))
        for name in pairing.roles
        if any(pairing.axes[name])
    )
    used = {space for weight in weights for space in weight.spaces}
    used |= {pairing.spaces[s].over or "" for s in used}
    spaces = {name: space for name, space in pairing.spaces.items() if name in used}
    return AlignmentProblem(spaces, weights, pairing.fixed & set(spaces))
