"""Readers of terms see the plain axis where every index of another one means the same."""

from __future__ import annotations

from graphrebase.symmetry.axes import Fibre, Leaf, Product, fibre, frozen, leaf, product
from graphrebase.symmetry.solver import Solver


def test_members_of_one_class_are_that_class_also_inside_a_grid() -> None:
    solver, place = Solver(), frozen((2, 2), "place")
    one, other, rows = leaf(4), leaf(4), leaf(3)
    axis = fibre(place, [one, other])
    grid = product([rows, axis])
    solver.unify(one, other)
    assert isinstance(axis.form, Fibre)
    solver.settle(grid, set())
    assert axis.root is one.root and isinstance(axis.form, Leaf)
    assert isinstance(grid.form, Product)


def test_control_members_apart_stay_a_fibre() -> None:
    axis = fibre(frozen((2, 2), "place"), [leaf(4), leaf(4)])
    Solver().settle(axis, set())
    assert isinstance(axis.form, Fibre)
