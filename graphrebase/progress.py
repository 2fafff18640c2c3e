"""What long work tells of itself: a stage, how many of its steps are done, and of how many."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told (stage, steps done, steps); 0 steps where their number is not known."""


def silent(stage: str, done: int, steps: int) -> None:
    """Tell nobody."""
