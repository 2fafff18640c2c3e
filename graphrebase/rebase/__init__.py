"""Rebase: task vector, plan and the streamed result; and permutations of a single model."""

from graphrebase.rebase.plan import Entry, TaskVector, make_plan
from graphrebase.rebase.prepare import Prepared, prepare
from graphrebase.rebase.run import Probes, Result, rebase
from graphrebase.rebase.settings import METHODS, TEMPLATES, Settings
from graphrebase.rebase.task import align_models

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
