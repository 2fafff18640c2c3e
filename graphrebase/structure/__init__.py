"""Structure: attention, MLP, norms and embeddings labelled, weights read as canonical arrays."""

from graphrebase.structure.blocks import Attention
from graphrebase.structure.mlp import Mlp
from graphrebase.structure.model import RESIDUAL_MODES, Skip, Structure, find_structure
from graphrebase.structure.roles import Role
from graphrebase.structure.summary import coverage, summary
from graphrebase.structure.views import View

__all__ = [
    "RESIDUAL_MODES",
    "Attention",
    "Mlp",
    "Role",
    "Skip",
    "Structure",
    "View",
    "coverage",
    "find_structure",
    "summary",
]
