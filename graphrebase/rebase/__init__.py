"""Rebase: task vector, plan and the streamed result; and permutations of a single model."""

from graphrebase.rebase.plan import Entry, TaskVector, make_plan
from graphrebase.rebase.run import METHODS, TEMPLATES, Result, Settings, align_models, rebase

__all__ = [
    "METHODS",
    "TEMPLATES",
    "Entry",
    "Result",
    "Settings",
    "TaskVector",
    "align_models",
    "make_plan",
    "rebase",
]
