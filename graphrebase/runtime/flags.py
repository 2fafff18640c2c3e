"""Inputs that switch a model from one way of running to another: one boolean for all samples."""

from __future__ import annotations

import numpy as np

from graphrebase.runtime.session import InputSpec, Session


def is_flag(spec: InputSpec) -> bool:
    """Return whether an input is a switch, as ``use_cache_branch`` of a merged decoder is."""
    return spec.dtype.kind == "b" and spec.shape in ((), (1,))


def flags_off(session: Session) -> Session:
    """Return a session, its switches set to false: a decoder then reads whole sequences at once.

    They are no inputs of it any more, so that every input has the samples on axis 0.
    """
    flags = {name: len(spec.shape) for name, spec in session.inputs.items() if is_flag(spec)}
    session.bind({name: np.zeros((1,) * rank, np.bool_) for name, rank in flags.items()})
    return session
