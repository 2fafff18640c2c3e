"""The path policy: which files may be read for a model and which may be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from graphrebase.errors import InputError, OutputError


def regular_file(path: Path, *, what: str, hint: str) -> os.stat_result:
    """Return the status of ``path``, following symlinks.

    Raises:
        InputError: it is missing, out of reach, or not a regular file (a device, a pipe).
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{what} does not exist", where=str(path), hint=hint) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot open {what}: {error}", where=str(path), hint=hint) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{what} is a folder", where=str(path), hint="name the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{what} is not a regular file", where=str(path), hint=hint)
    return status


def normal_location(location: str) -> str:
    """Return an external data location without ``.`` parts, after checking that it is safe.

    A location is text from an untrusted file. It must be a relative path that stays where it is
    put, on POSIX and on Windows. Hidden names are refused: a copy of the model would create them
    (``.bashrc``) in the output folder.

    Raises:
        ValueError: it is empty, absolute, contains ``..``, a hidden name or a NUL.
    """
    parts = PurePosixPath(location).parts
    windows = PureWindowsPath(location)
    if not parts or "\0" in location:
        raise ValueError("the location is empty or has a NUL character")
    if parts[0] == "/" or windows.anchor:
        raise ValueError("the location is absolute")
    if any(part.startswith(".") for part in (*parts, *windows.parts)):
        raise ValueError("the location has a '..' or a hidden name")
    return "/".join(parts)


def data_file(model: Path, location: str) -> Path:
    """Return the external data file ``location`` of ``model``, all symlinks resolved.

    It is looked up beside the path by which the model was named, and must lie, once resolved,
    in that folder or in the folder of the resolved model (a Hugging Face cache links the model
    and its data from a snapshot folder to one blob folder).

    Raises:
        InputError: the location is unsafe, or the file missing or not a regular file.
    """
    where = f"{model}: external data {location!r}"
    try:
        path = model.parent / normal_location(location)
        real = path.resolve()
        folders = {model.parent.resolve(), model.resolve().parent}
        is_inside = any(real.is_relative_to(folder) for folder in folders)
        if not is_inside:
            raise ValueError("the location leads out of the model's folder")
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(
            f"unsafe external data: {error}",
            where=where,
            hint="external data must be plain files in the model's own folder",
        ) from error
    regular_file(
        real,
        what=f"the external data file {location!r} of {model.name}",
        hint=f"copy {location!r} beside the model, into {str(model.parent)!r}",
    )
    if real == model.resolve():
        raise InputError("the model names itself as its external data", where=where)
    return real


def is_any_of(path: Path, files: Iterable[Path]) -> bool:
    """Tell whether ``path`` is one of ``files``, by whatever link or name."""
    try:
        own = path.stat()
    except (OSError, ValueError):
        return False
    return any(file.exists() and os.path.samestat(own, file.stat()) for file in files)


def check_output(target: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Check before long work that a file which a user asks for can be written.

    Raises:
        OutputError: its folder is missing or read-only, or see `check_target`.
    """
    check_target(target, inputs, force=force)
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(
            "the output folder does not exist", where=str(folder), hint="create it first"
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(
            "the output folder is read-only",
            where=str(folder),
            hint="choose a folder you may write to",
        )


def check_target(target: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Check that ``target`` may be created or replaced.

    Raises:
        OutputError: it is an input, a folder or a device, or it exists and ``force`` is false.
    """
    if is_any_of(target, inputs):
        raise OutputError(
            "the output is one of the input files", where=str(target), hint="choose another name"
        )
    if not os.path.lexists(target):
        return
    if target.exists() and not target.is_file():
        raise OutputError(
            "the output exists and is not a file", where=str(target), hint="choose another name"
        )
    if not force:
        raise OutputError(
            "the output exists already",
            where=str(target),
            hint="choose another name, or overwrite it with --force",
        )


def output_locations(locations: Iterable[str], out: Path, inputs: Iterable[Path]) -> dict[str, str]:
    """Return where each external data location of a template goes beside ``out``.

    The names stay unless one of them is an input file there (``out`` is in the template's own
    folder): then one file becomes ``<out name>.data``, several ``<out stem>.<name>``.

    Args:
        locations: safe locations as the template spells them.
        out: the model file to be written.
        inputs: files that must not be written to.

    Returns:
        the new location of each; unchanged ones keep their spelling.
    """
    normal = {location: normal_location(location) for location in locations}
    inputs = list(inputs)
    if not any(is_any_of(out.parent / name, inputs) for name in normal.values()):
        return {location: location for location in normal}
    if len(set(normal.values())) == 1:
        return dict.fromkeys(normal, f"{out.name}.data")
    return {
        location: str(PurePosixPath(name).with_name(f"{out.stem}.{PurePosixPath(name).name}"))
        for location, name in normal.items()
    }
