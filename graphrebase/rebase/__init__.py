"""Rebase: task vector, plan and the streamed result; and permutations of a single model."""

from graphrebase.rebase.methods import align_models
from graphrebase.rebase.plan import Entry, TaskVector, make_plan
from graphrebase.rebase.prepare import prepare
from graphrebase.rebase.prepared import Prepared
from graphrebase.rebase.run import Probes, Result, rebase
from graphrebase.rebase.settings import METHODS, TEMPLATES, Settings

__all__ = [
    "METHODS",
    "TEMPLATES",
    "Entry",
    "Prepared",
    "Probes",
    "Result",
    "Settings",
    "TaskVector",
    "align_models",
    "make_plan",
    "prepare",
    "rebase",
]
