"""Progress without a terminal: a line now and then, with the time left."""

from __future__ import annotations

from graphrebase.cli.progress import Lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_now_and_then_with_the_time_left() -> None:
    lines: list[str] = []
    clock = Clock()
    tell = Lines(lines.append, clock, every=30)
    for second in range(0, 100, 10):
        clock.now = float(second)
        tell("fitting", second, 400)
    assert lines == [
        "fitting: 30 of 400, about 6 min 10 s left\n",
        "fitting: 60 of 400, about 5 min 40 s left\n",
        "fitting: 90 of 400, about 5 min 10 s left\n",
    ]


def test_a_stage_without_steps_is_named() -> None:
    lines: list[str] = []
    clock = Clock()
    tell = Lines(lines.append, clock, every=30)
    clock.now = 31.0
    tell("reading", 0, 0)
    assert lines == ["reading\n"]


def test_control_quick_work_says_nothing() -> None:
    lines: list[str] = []
    clock = Clock()
    tell = Lines(lines.append, clock, every=30)
    for step in range(29):
        clock.now = float(step)
        tell("fitting", step, 29)
    assert not lines
