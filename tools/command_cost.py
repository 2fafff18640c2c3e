"""What one run of the command line costs, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = "from graphrebase.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took, and what it printed.

    Attributes:
        seconds: user and system CPU time.
        mebibytes: its peak resident memory.
        printed: on standard output.
    """

    seconds: float
    mebibytes: float
    printed: str


def command(arguments: Sequence[str]) -> Cost:
    """Return what `graphrebase ARGUMENTS` costs; its progress is not shown."""
    call = [sys.executable, "-c", COMMAND, *arguments]
    with TemporaryFile() as printed, TemporaryFile() as said:
        process = subprocess.Popen(call, stdout=printed, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read().decode())
            raise SystemExit(f"graphrebase {' '.join(arguments)}: exit code {process.returncode}")
        printed.seek(0)
        text = printed.read().decode()
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return a function's result, made in another process.

    A command's peak memory begins with what its parent held when it was forked.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
