"""What a model's signature says of its inputs: tokens, images, lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper

from graphrebase.errors import UsageError, VerificationError
from graphrebase.graph import Graph
from graphrebase.runtime.batches import main_output
from graphrebase.runtime.session import InputSpec, Session
from graphrebase.runtime.synthetic import length_limit, synthetic_inputs, table_limit

LENGTH = 64
"""Tokens of a generated sequence, where nothing says otherwise."""
Arrays = dict[str, np.ndarray]
Note = Callable[[str], None]


def declared_inputs(graph: Graph) -> dict[str, InputSpec]:
    """Return what a model declares of its inputs, without opening a session."""
    return {name: _declared(name, value.type.tensor_type) for name, value in graph.inputs.items()}


def _declared(name: str, tensor: onnx.TypeProto.Tensor) -> InputSpec:
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"{name}.{axis}"
        for axis, d in enumerate(tensor.shape.dim)
    )
    return InputSpec(name, np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def token_input(model: Session | Mapping[str, InputSpec]) -> str | None:
    """Return the input that holds tokens: integer, (samples, tokens), no mask, type or position.

    Args:
        model: the model, or what it declares of its inputs.
    """
    helpers = ("mask", "type", "position", "label", "past", "cache")
    for name, spec in (model.inputs if isinstance(model, Session) else model).items():
        plain = not any(word in name.lower() for word in helpers)
        if spec.dtype.kind in "iu" and len(spec.shape) == 2 and plain:
            return name
    return None


def image_input(session: Session) -> str | None:
    """Return the input that holds images: the only float one of rank 4."""
    found = [n for n, s in session.inputs.items() if s.dtype.kind == "f" and len(s.shape) == 4]
    return found[0] if len(found) == 1 else None


def sequence_length(session: Session, graph: Graph) -> int:
    """Return the length of generated sequences: the declared one, or the longest that runs.

    Tables of positions say what they allow only roughly: OPT begins at row 2, GPT-J cuts its
    table in the graph.
    """
    declared = [s.shape[1] for s in session.inputs.values() if len(s.shape) == 2]
    fixed = next((d for d in declared if isinstance(d, int)), None)
    longest = min(LENGTH, length_limit(graph) or LENGTH)
    tries = (longest, longest - 1, longest - 2, *(longest >> n for n in range(1, 5)))
    return fixed or next((n for n in tries if n > 0 and _runs(session, graph, n)), longest)


def _runs(session: Session, graph: Graph, length: int) -> bool:
    """Tell whether a model runs on a sequence of a length."""
    vocabulary = table_limit(graph)
    try:
        inputs = synthetic_inputs(
            session, batch=1, length=length, seed=0, vocabulary=vocabulary, cache="empty"
        )
        session.run(inputs)
    except (UsageError, VerificationError):
        return False
    return True


def logits_of(session: Session, inputs: Arrays) -> np.ndarray:
    """Return the main output of one run, float64."""
    name = main_output(session)
    return session.run(inputs, outputs=[name])[name].astype(np.float64)
