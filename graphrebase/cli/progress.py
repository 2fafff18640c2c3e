"""Progress on stderr: a bar with the time left on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

from graphrebase.progress import Progress

SECONDS = 30.0
"""Time between two lines, where stderr is no terminal."""


@contextmanager
def shown() -> Iterator[Progress]:
    """Show the progress of what runs inside; gives the function to be told."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(sys.stderr.write)
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as bars:
        yield _Bar(bars)


class _Bar:
    """One bar, for the stage at hand."""

    def __init__(self, bars: rich_progress.Progress) -> None:
        self._bars = bars
        self._stage = ""
        self._task: rich_progress.TaskID | None = None

    def __call__(self, stage: str, done: int, steps: int) -> None:
        """Show a step."""
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._stage, self._task = stage, self._bars.add_task(stage, total=None)
        self._bars.update(self._task, completed=done, total=steps or None)


class Lines:
    """Lines of text, at most one in a while; quick work writes none."""

    def __init__(
        self,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        every: float = SECONDS,
    ) -> None:
        """Start the clock.

        Args:
            write: takes a line.
            clock: gives seconds.
            every: seconds between two lines.
        """
        self._write, self._clock, self._every = write, clock, every
        self._stage, self._began = "", clock()
        self._said = self._began

    def __call__(self, stage: str, done: int, steps: int) -> None:
        """Write where the work is, if it is time for a line."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._began = stage, now
        if now - self._said < self._every:
            return
        self._said = now
        line = stage
        if steps:
            line += f": {done} of {steps}"
            if 0 < done < steps:
                line += f", about {_time((now - self._began) / done * (steps - done))} left"
        self._write(line + "\n")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
