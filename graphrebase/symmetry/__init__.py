"""The axis algebra: which indices of which weights move together, proved by the graph."""

from graphrebase.symmetry.axes import leaves
from graphrebase.symmetry.groups import FrozenAxis, Group, Member
from graphrebase.symmetry.permute import index_vector, permute_array, random_permutations
from graphrebase.symmetry.solve import FREE_KINDS, Symmetry, find_symmetry

__all__ = [
    "FREE_KINDS",
    "FrozenAxis",
    "Group",
    "Member",
    "Symmetry",
    "find_symmetry",
    "index_vector",
    "leaves",
    "permute_array",
    "random_permutations",
]
