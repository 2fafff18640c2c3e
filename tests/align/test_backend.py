"""The backend table: numpy by default, and a clear refusal where there is no GPU."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from graphrebase import backend
from graphrebase.errors import UsageError


@pytest.fixture
def no_cupy(monkeypatch):
    real = importlib.import_module

    def missing(name):
        if name == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name)

    monkeypatch.setattr(backend.importlib, "import_module", missing)


def test_default_is_numpy():
    chosen = backend.select()
    assert (chosen.device, chosen.xp) == ("cpu", np)


def test_auto_falls_back_to_numpy(no_cupy):
    assert backend.select("auto").device == "cpu"


def test_cuda_without_cupy_is_refused_with_advice(no_cupy):
    with pytest.raises(UsageError) as caught:
        backend.select("cuda")
    assert "gpu" in caught.value.hint


def test_unknown_device():
    with pytest.raises(UsageError):
        backend.select("tpu")
