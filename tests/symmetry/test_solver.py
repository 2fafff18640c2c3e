"""Terms that share their parts are solved in as many steps as they have parts."""

from __future__ import annotations

from graphrebase.symmetry.axes import Axis, Fibre, leaf, leaves
from graphrebase.symmetry.solver import Solver

DEPTH, MEMBERS = 40, 3


def tower(bottom: Axis, overs: list[Axis]) -> Axis:
    """Return a fibre of fibres: each level is shared by all members of the next one."""
    axis = bottom
    for over in overs:
        axis = Axis(axis.size, Fibre(over, (axis,) * MEMBERS))
    return axis


class Counting(Solver):
    steps = 0

    def unify(self, left: Axis, right: Axis) -> None:
        self.steps += 1
        super().unify(left, right)


def test_fibres_that_share_parts_are_unified_once_per_part() -> None:
    overs = [leaf(MEMBERS) for _ in range(DEPTH)]
    left, right = leaf(5), leaf(5)
    solver = Counting()
    solver.unify(tower(left, overs), tower(right, overs))
    assert left.root is right.root
    assert solver.steps < 10 * DEPTH * MEMBERS


def test_leaves_of_a_term_that_shares_parts_come_once() -> None:
    bottom = leaf(5)
    assert leaves(tower(bottom, [leaf(MEMBERS) for _ in range(DEPTH)])) == [bottom]


def test_control_fibres_that_differ_in_one_member_are_not_one() -> None:
    over, left, right, other = leaf(2), leaf(5), leaf(5), leaf(5)
    solver = Solver()
    solver.unify(
        Axis((5, 5), Fibre(over, (left, other))), Axis((5, 5), Fibre(over, (right, other)))
    )
    assert left.root is right.root
    assert left.root is not other.root
