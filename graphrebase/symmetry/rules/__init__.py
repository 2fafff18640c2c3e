"""Operator rules, one module per family; importing this package fills the registry."""

from graphrebase.symmetry.rules import (
    attention,
    contraction,
    control,
    convolution,
    elementwise,
    gather,
    layout,
    normalization,
    quantization,
    scatter,
)

__all__ = [
    "attention",
    "contraction",
    "control",
    "convolution",
    "elementwise",
    "gather",
    "layout",
    "normalization",
    "quantization",
    "scatter",
]
