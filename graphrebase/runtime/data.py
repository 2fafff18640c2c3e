"""Arrays that users bring: npz files, labels, and their cast to a model's inputs."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphrebase.errors import InputError
from graphrebase.runtime.session import InputSpec, Session

LABEL = "label"
_HINT = "write it with numpy.savez(path, **{input_name: array, 'label': labels})"
_DAMAGED = (
    ValueError, OSError, EOFError, KeyError, SyntaxError, MemoryError, OverflowError,
    NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file by name; pickled objects are refused.

    Raises:
        InputError: the file is missing, damaged, not npz, empty, or holds pickled objects.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("this is one array, not an npz file", where=str(path), hint=_HINT)
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise InputError(
            f"cannot be read as npz: {' '.join(str(error).split())[:200]}",
            where=str(path),
            hint=_HINT,
        ) from error
    foreign = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if foreign or not arrays:
        fault = f"'{foreign[0]}' in it is no array" if foreign else "it holds no arrays"
        raise InputError(f"not an npz file of arrays: {fault}", where=str(path), hint=_HINT)
    return arrays


def split_labels(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the inputs, and the array under ``label`` if there is one."""
    inputs = {name: array for name, array in arrays.items() if name != LABEL}
    return inputs, arrays.get(LABEL)


def cast_inputs(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in the types that the model declares.

    Data are stored small (uint8, float16, int32) and widened here. Arrays that are not the
    model's are left as they are.

    Raises:
        InputError: floats are given for an integer input, a value does not fit the input's type,
            or text and numbers are mixed.
    """
    return {
        name: _cast(array, session.inputs[name]) if name in session.inputs else array
        for name, array in inputs.items()
    }


def _cast(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    if array.dtype == spec.dtype:
        return array
    given, wanted = array.dtype.kind, spec.dtype.kind
    if wanted == "O" and given in "OU":
        return array.astype(object)
    legal = given in "biu" if wanted in "biu" else given in "biufV"
    if not legal or "O" in (given, wanted):
        raise InputError(
            f"input '{spec.name}' has type {array.dtype}, the model needs {spec.dtype}",
            hint=f"store it as {spec.dtype}",
        )
    with np.errstate(over="ignore"):
        result = array.astype(spec.dtype)
    if wanted in "biu" and not np.array_equal(result, array):
        raise InputError(
            f"input '{spec.name}' has values that do not fit {spec.dtype}",
            hint="check that the array belongs to this input",
        )
    return result
