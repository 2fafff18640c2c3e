"""Arrays that users bring: npz files, labels, and their cast to a model's inputs."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
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


def _check_archive(path: Path) -> None:
    if not path.exists():
        raise InputError("the data file does not exist", where=str(path), hint="check the path")
    try:
        is_archive = zipfile.is_zipfile(path)
    except OSError:
        is_archive = False
    if not is_archive:
        raise InputError("this is not an npz file", where=str(path), hint=_HINT)


def split_labels(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the inputs, and the array under ``label`` if there is one."""
    inputs = {name: array for name, array in arrays.items() if name != LABEL}
    return inputs, arrays.get(LABEL)


def check_inputs(
    arrays: Mapping[str, np.ndarray], inputs: Mapping[str, InputSpec], *, where: str | None = None
) -> None:
    """Check that arrays fit what a model declares; arrays that are not its inputs are passed over.

    Args:
        arrays: by name, axis 0 the samples.
        inputs: the declared inputs.
        where: the file that the arrays are from.

    Raises:
        InputError: no array is an input, or one has another type, number of axes or fixed size,
            is empty, holds NaN or infinity, or is a mask that hides everything.
    """
    fitting = [name for name in arrays if name in inputs]
    if not fitting:
        raise InputError(
            f"none of the arrays is an input of the model: {', '.join(sorted(arrays))}",
            where=where,
            hint=f"give one array per input: {', '.join(inputs)}",
        )
    for name in fitting:
        _check_type(arrays[name].dtype, inputs[name], where)
        _check_shape(arrays[name].shape, inputs[name], where)
        _check_values(name, arrays[name], where)


def _check_values(name: str, array: np.ndarray, where: str | None) -> None:
    """Check that there are values, and no NaN; minus infinity is what masks hide by."""
    fault = ""
    if array.ndim <= 2 and array.size == 0:  # an empty cache has more axes
        fault = "is empty"
    elif array.dtype.kind == "f" and np.isnan(array).any():
        fault = "holds NaN"
    elif array.dtype.kind == "f" and np.isposinf(array).any():
        fault = "holds infinity"
    elif array.ndim == 2 and array.dtype.kind in "biu" and "mask" in name and not array.any():
        fault = "hides every token"
    if fault:
        raise InputError(f"input '{name}' {fault}", where=where, hint="leave these samples out")


def _check_type(given: np.dtype[Any], spec: InputSpec, where: str | None) -> None:
    wanted = spec.dtype.kind
    legal = "OU" if wanted == "O" else "biu" if wanted in "biu" else "biufV"
    if given != spec.dtype and given.kind not in legal:
        raise InputError(
            f"input '{spec.name}' has type {given}, the model needs {spec.dtype}",
            where=where,
            hint=f"store it as {spec.dtype}",
        )


def _check_shape(given: tuple[int, ...], spec: InputSpec, where: str | None) -> None:
    """Check the axes but the first: a batch that is baked in is what runs are cut into."""
    same = len(given) == len(spec.shape) and all(
        not isinstance(size, int) or n == size
        for n, size in zip(given[1:], spec.shape[1:], strict=True)
    )
    if spec.shape and not same:
        raise InputError(
            f"input '{spec.name}' has the shape ({', '.join(map(str, given))}), the model "
            f"declares ({', '.join(map(str, spec.shape))})",
            where=where,
            hint="axis 0 is the samples, the others are as the model declares them",
        )


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
    wanted = spec.dtype.kind
    _check_type(array.dtype, spec, None)
    if wanted == "O":
        return array.astype(object)
    with np.errstate(over="ignore"):
        result = array.astype(spec.dtype)
    if wanted in "biu" and not np.array_equal(result, array):
        raise InputError(
            f"input '{spec.name}' has values that do not fit {spec.dtype}",
            hint="check that the array belongs to this input",
        )
    return result
