"""Alignments of two models' index spaces: the problem, the methods, the maps and their file."""

from __future__ import annotations

from graphrebase.align import naive as _naive
from graphrebase.align import transfusion as _transfusion
from graphrebase.align.action import transport
from graphrebase.align.alignment import (
    Alignment,
    Details,
    check_fits,
    compose,
    identity,
    identity_share,
    inverse,
    is_identity,
    random_alignment,
)
from graphrebase.align.evidence import Evidence
from graphrebase.align.file import check_models, load, save
from graphrebase.align.problem import AlignmentProblem, Space, Weight
from graphrebase.align.registry import METHODS, Options
from graphrebase.align.run import align
from graphrebase.align.score import lineage

__all__ = [
    "METHODS",
    "Alignment",
    "AlignmentProblem",
    "Details",
    "Evidence",
    "Options",
    "Space",
    "Weight",
    "align",
    "check_fits",
    "check_models",
    "compose",
    "identity",
    "identity_share",
    "inverse",
    "is_identity",
    "lineage",
    "load",
    "random_alignment",
    "save",
    "transport",
]

del _naive, _transfusion
