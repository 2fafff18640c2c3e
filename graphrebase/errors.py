"""The errors a user can meet, one kind per exit code of the command line."""

from __future__ import annotations

from typing import ClassVar


class GraphRebaseError(Exception):
    """Base of all errors raised on purpose; says what, where and what to try.

    Args:
        message: what is wrong, in one sentence.
        where: the file, node or tensor concerned.
        hint: what the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """Return the message with its place and the advice, one line each."""
        lines = [self.message]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  try:   {self.hint}")
        return "\n".join(lines)


class UsageError(GraphRebaseError):
    """The command or call itself makes no sense (exit code 2)."""

    exit_code = 2


class InputError(GraphRebaseError):
    """An input file is unreadable, damaged or unsafe (exit code 3)."""

    exit_code = 3


class MismatchError(GraphRebaseError):
    """The given models do not fit together (exit code 4)."""

    exit_code = 4


class VerificationError(GraphRebaseError):
    """Numbers are not finite, or a check of the result failed (exit code 5)."""

    exit_code = 5


class OutputError(GraphRebaseError):
    """The result cannot be written (exit code 6)."""

    exit_code = 6
