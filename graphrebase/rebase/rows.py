"""Tables of different lengths: A's rows in the places of B's, where they mean the same.

A and A_ft are then seen as if their tables had B's rows: where a row of B means nothing to A, both
have zeros, so that the fine-tuning changes nothing there and B's row stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphrebase.errors import InputError, MismatchError
from graphrebase.rebase.ends import find_streams, input_roles
from graphrebase.runtime.vocabulary import TokenMap, Vocabularies
from graphrebase.structure import Role, Structure
from graphrebase.structure.views import Placement

_OTHER_INDICES = ("position", "type")
"""Parts of the names of inputs that look up something else than tokens."""


@dataclass(frozen=True, slots=True)
class Matched:
    """A and A_ft with tables of B's rows.

    Attributes:
        structures: of base, finetuned and target.
        changed: whether any table was matched.
        vocabularies: the two vocabularies, if they are mapped.
    """

    structures: Mapping[str, Structure]
    changed: bool
    vocabularies: Vocabularies | None


def match_rows(structures: Mapping[str, Structure], tokens: TokenMap | None) -> Matched:
    """Match the rows of tables: tokens by a map, positions by their number.

    Args:
        structures: of base, finetuned and target, of one family.
        tokens: rows of the vocabularies that correspond; None if they are the same.

    Raises:
        MismatchError: the vocabularies differ and there is no map, or there is nothing to map.
        InputError: the map has rows that a vocabulary lacks.
    """
    base, target = structures["base"], structures["target"]
    placements: dict[str, tuple[str, Placement]] = {}
    vocabularies = None
    for mine, theirs in _tables(base, target):
        counts = _rows(base, mine), _rows(target, theirs)
        source = mine.removeprefix("embedding.")
        if source in base.graph.inputs and not any(x in source for x in _OTHER_INDICES):
            if tokens is None and counts[0] != counts[1]:
                raise MismatchError(
                    f"the base has a vocabulary of {counts[0]} tokens, the target of {counts[1]}",
                    where=f"{base.model.path} and {target.model.path}",
                    hint="say which correspond with --vocab-map M.npz: arrays 'a' and 'b' of row "
                    "numbers",
                )
            if tokens is not None:
                _check_map(tokens, counts)
                vocabularies = Vocabularies(source, tokens, counts)
                placements[mine] = theirs, Placement(tokens.a, tokens.b, counts[1])
        elif counts[0] != counts[1]:
            common = np.arange(min(counts))
            placements[mine] = theirs, Placement(common, common, counts[1])
    if tokens is not None and vocabularies is None:
        raise MismatchError(
            "there is no table of tokens that --vocab-map could be for",
            where=str(base.model.path),
            hint="leave it out",
        )
    if vocabularies is not None:
        placements |= _head_rows(base, target, vocabularies)
    changed = {name: _placed(structures[name], placements) for name in ("base", "finetuned")}
    return Matched({**structures, **changed}, bool(placements), vocabularies)


def _tables(base: Structure, target: Structure) -> list[tuple[str, str]]:
    """Return the tables of both models that correspond: by the input that looks, or in order."""
    found = []
    for one, other in zip(find_streams(base), find_streams(target), strict=True):
        mine, theirs = (input_roles(s, x).tables for s, x in ((base, one), (target, other)))
        named = [name for name in mine if name in theirs]
        rest = [[n for n in names if n not in named] for names in (mine, theirs)]
        found += [(name, name) for name in named]
        if len(rest[0]) == len(rest[1]):
            found += list(zip(*rest, strict=True))
    return found


def _rows(structure: Structure, role: str) -> int:
    return int(structure.roles[role].view.shape[0])


def _check_map(tokens: TokenMap, counts: tuple[int, int]) -> None:
    for name, rows, count in zip("ab", (tokens.a, tokens.b), counts, strict=True):
        if rows.max() >= count:
            raise InputError(
                f"'{name}' of the vocabulary map has row {int(rows.max())}, the table {count} rows",
                hint="'a' are rows of the base's table, 'b' of the target's",
            )


def _head_rows(
    base: Structure, target: Structure, vocabularies: Vocabularies
) -> dict[str, tuple[str, Placement]]:
    """Return the heads over the vocabulary, and their biases."""
    tokens = vocabularies.tokens
    placement = Placement(tokens.a, tokens.b, vocabularies.sizes[1])
    return {
        name: (name, placement)
        for name, role in base.roles.items()
        if role.kind == "head"
        and role.axes[0] is None
        and name in target.roles
        and (_rows(base, name), _rows(target, name)) == vocabularies.sizes
    }


def _placed(structure: Structure, placements: Mapping[str, tuple[str, Placement]]) -> Structure:
    """Return a structure whose tables have the rows, and the names, of another model's."""
    roles: dict[str, Role] = {}
    for name, role in structure.roles.items():
        if name in placements:
            name, placement = placements[name]
            role = replace(role, name=name, view=role.view.placed_at(placement))
        roles[name] = role
    return replace(structure, roles=roles)
