"""What fused operators stand for, one module per family; importing this package fills the table.

A body is written in standard operators, as the functions of ONNX are. In its place, linear maps,
biases, residual connections, norms and attention inside a fused operator are seen by everything
that sees them in an unfused graph: shapes, axes, patterns, roles.
"""

from graphrebase.graph.bodies import (
    activation,
    attention,
    contraction,
    convolution,
    einsum,
    normalization,
    packed,
    position,
    quantization,
    sequences,
)
from graphrebase.graph.bodies.table import BODIES, Call, CannotExpand

__all__ = [
    "BODIES",
    "Call",
    "CannotExpand",
    "activation",
    "attention",
    "contraction",
    "convolution",
    "einsum",
    "normalization",
    "packed",
    "position",
    "quantization",
    "sequences",
]
