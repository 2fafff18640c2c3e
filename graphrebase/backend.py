"""Array backends: numpy on the processor, cupy on a GPU, chosen in one table, loaded lazily."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphrebase.errors import UsageError


@dataclass(frozen=True, slots=True)
class Backend:
    """One array library.

    Attributes:
        device: `cpu` or `cuda`.
        xp: the module that speaks the numpy interface (numpy or cupy).
        to_numpy: copies (or passes on) one of its arrays to host memory.
    """

    device: str
    xp: Any
    to_numpy: Callable[[Any], NDArray[Any]]


def select(device: str = "cpu") -> Backend:
    """Return the backend for a device.

    Args:
        device: `cpu`, `cuda`, or `auto` (a GPU if cupy finds one, else the processor).

    Raises:
        UsageError: unknown device, or `cuda` without a working cupy and GPU.
    """
    if device == "auto":
        return _auto()
    if device not in BACKENDS:
        raise UsageError(
            f"unknown device {device!r}", hint=f"choose one of auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[device]()


def _auto() -> Backend:
    try:
        return _cupy()
    except UsageError:
        return _numpy()


def _numpy() -> Backend:
    return Backend("cpu", np, np.asarray)


def _cupy() -> Backend:
    try:
        cupy = importlib.import_module("cupy")
        devices = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # cupy raises its own kinds for a missing driver or library
        raise UsageError(
            f"device 'cuda' is not usable: {error}",
            hint="install the `gpu` extra on a machine with an NVIDIA driver, or use --device cpu",
        ) from error
    if devices == 0:
        raise UsageError("device 'cuda' is not usable: no GPU found", hint="use --device cpu")
    return Backend("cuda", cupy, cupy.asnumpy)


BACKENDS: Final[dict[str, Callable[[], Backend]]] = {"cpu": _numpy, "cuda": _cupy}
"""Device name to the function that loads its backend."""
