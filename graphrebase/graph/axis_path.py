"""Follow one axis of a value along a chain of operators that keep it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphrebase.graph.shapes import Dim, ShapeTable
from graphrebase.graph.view import Slot

_UNIT = (1, 1)
_RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}


def axis_after(shapes: ShapeTable, path: Sequence[Slot], axis: int) -> int | None:
    """Return which axis of the last node's input an axis of the first node's input is.

    Args:
        shapes: the shapes of the graph.
        path: uses, each of the output of the node before it.
        axis: counted from the front.
    """
    place: int | None = axis
    for slot in path[:-1]:
        place = None if place is None else _moves(shapes, slot).get(place)
    return place


def axis_before(shapes: ShapeTable, path: Sequence[Slot], axis: int) -> int | None:
    """Return which axis of the first node's input an axis of the last node's input was."""
    place: int | None = axis
    for slot in reversed(path[:-1]):
        moved = {after: before for before, after in _moves(shapes, slot).items()}
        place = None if place is None else moved.get(place)
    return place


def _moves(shapes: ShapeTable, slot: Slot) -> Mapping[int, int]:
    """Return where the axes of an input are in the output, without those that are not whole."""
    node = slot.node
    given, made = (shapes.shape(name) for name in (node.inputs[slot.position], node.outputs[0]))
    if given is None or made is None:
        return {}
    if node.op_type == "Transpose":
        order = node.attributes.get("perm", range(len(given))[::-1])
        return {before: after for after, before in enumerate(order)}
    if node.op_type in _RESHAPING:
        return _kept(given, made)
    extra = len(made) - len(given)  # element-wise: aligned at the end
    return {i: i + extra for i in range(len(given))}


def _kept(given: Sequence[Dim], made: Sequence[Dim]) -> dict[int, int]:
    """Return the axes that a reshape keeps at the end, past axes of size 1."""
    i, j, kept = len(given) - 1, len(made) - 1, {}
    while i >= 0 and j >= 0:
        if given[i] == made[j]:
            kept[i] = j
            i, j = i - 1, j - 1
        elif given[i] == _UNIT:
            i -= 1
        elif made[j] == _UNIT:
            j -= 1
        else:
            break
    return kept
