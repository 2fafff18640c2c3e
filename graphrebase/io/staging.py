"""Output files that appear all together or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from graphrebase.errors import OutputError

_HINTS = {
    errno.ENOSPC: "free some disk space, or write to another disk",
    errno.EDQUOT: "free some disk space, or write to another disk",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "create the folder first",
}


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write: {reason}", where=str(path), hint=hint) from error


def write_file(path: Path, data: bytes) -> None:
    """Write one file, whole or not at all; an old one is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    with Staging(path.parent) as staging:
        file = staging.open(path)
        file.write(data)
        file.sync()
        staging.commit()


def scratch_folder(beside: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is gone when it is closed, where there is room for a model.

    Args:
        beside: an output, in whose folder it is made; the system's folder by default.

    Raises:
        OutputError: it cannot be made.
    """
    parent = None if beside is None else beside.parent
    with output_errors(beside or Path(tempfile.gettempdir())):
        return tempfile.TemporaryDirectory(prefix=".graphrebase-", dir=parent)


class StagedFile:
    """A temporary file in the folder of ``target``, on disk once closed."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = _temporary(target)
        with output_errors(target):
            # Not tempfile: its files are private (0600), an output follows the umask.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
        self._is_open = True

    def write(self, data: bytes | memoryview) -> None:
        """Append all of ``data``.

        Raises:
            OutputError: the disk is full or fails.
        """
        rest = memoryview(data)
        with output_errors(self.target):
            while rest.nbytes:
                rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        """Bring the file to the disk and close it."""
        with output_errors(self.target):
            os.fsync(self._descriptor)
            self.close()

    def close(self) -> None:
        """Close the file if it is open."""
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)


def _temporary(target: Path) -> Path:
    return target.parent / f".graphrebase-{secrets.token_hex(8)}.tmp"


class Staging:
    """Temporary files beside their targets; ``commit`` puts them in place in order of creation.

    As a context manager it removes what was not committed, and after a failure also the folders
    it made. The last file is the one that makes the output exist: it goes first when an old
    output is replaced, and comes last when the new one is put in place, so that an interruption
    leaves the old output, the new one, or none, never a mixture.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[StagedFile] = []
        self._made: list[Path] = []
        self._is_committed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove temporary files and, unless committed, new folders."""
        if self._is_committed:
            return
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def open(self, target: Path) -> StagedFile:
        """Return a new temporary file for ``target``, in a folder that is made if missing.

        Raises:
            OutputError: it would lie outside the output folder, or cannot be created.
        """
        with output_errors(target):
            if not target.parent.resolve().is_relative_to(self._folder.resolve()):
                raise OutputError("a link leads out of the output folder", where=str(target))
            self._make_folder(target.parent)
        file = StagedFile(target)
        self._files.append(file)
        return file

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while folder != self._folder and not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir()
            self._made.append(path)

    def commit(self) -> None:
        """Put every file in place of its target.

        Raises:
            OutputError: it failed, and everything is as it was before.
        """
        backups: list[tuple[Path, Path]] = []
        placed: list[Path] = []
        try:
            with output_errors(self._files[-1].target):
                if len(self._files) > 1:  # one file alone is replaced in one atomic step
                    for file in reversed(self._files):
                        _set_aside(file.target, backups)
                for file in self._files:
                    os.replace(file.path, file.target)
                    placed.append(file.target)
        except BaseException:
            if len(self._files) > 1:
                _restore(placed, backups)
            raise
        self._is_committed = True
        for backup, _ in backups:
            with contextlib.suppress(OSError):
                backup.unlink()
        for folder in {file.target.parent for file in self._files}:
            _sync_folder(folder)


def _set_aside(target: Path, backups: list[tuple[Path, Path]]) -> None:
    if os.path.lexists(target):
        backup = _temporary(target)
        os.rename(target, backup)
        backups.append((backup, target))


def _restore(placed: list[Path], backups: list[tuple[Path, Path]]) -> None:
    """Undo a commit that stopped half-way."""
    for target in placed:
        with contextlib.suppress(OSError):
            target.unlink()
    for backup, target in reversed(backups):
        with contextlib.suppress(OSError):
            os.rename(backup, target)


def _sync_folder(folder: Path) -> None:
    """Make the new names durable where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
