"""Inputs that say how many tokens there are, which attention operators with a cache read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from graphrebase.graph import Graph

#: Input position of an operator and what to add to the number of all tokens, past and present.
_READ: Mapping[str, tuple[tuple[int, int], ...]] = {"GroupQueryAttention": ((5, -1), (6, 0))}
_PASSES = {"Cast", "Reshape", "Squeeze", "Unsqueeze"}


def reads_counts(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has an operator that reads such inputs."""
    return any(node.op_type in _READ for node in graph.node)


def token_counts(graph: Graph) -> dict[str, int]:
    """Return the graph inputs that count tokens, and what to add to the number of all tokens."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        call = node.fused or node
        for position, offset in _READ.get(call.op_type, ()):
            name = call.input(position)
            while (maker := graph.producers.get(name)) is not None and maker.op_type in _PASSES:
                name = maker.input(0)
            if name in graph.inputs:
                found[name] = offset
    return found


def count_tokens(inputs: dict[str, np.ndarray], length: int, counts: Mapping[str, int]) -> None:
    """Fill the inputs that count tokens; caches are (B, kv, past, d).

    Args:
        inputs: all inputs, changed in place.
        length: number of present tokens.
        counts: as ``token_counts`` gives them.
    """
    past = max(
        (a.shape[2] for a in inputs.values() if a.ndim == 4 and a.dtype.kind == "f"), default=0
    )
    for name, offset in counts.items():
        if name in inputs:
            inputs[name][...] = length + past + offset
