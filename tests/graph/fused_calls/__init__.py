"""Calls of fused operators, small enough to run: what is fed to each, with which attributes."""

from __future__ import annotations

from collections.abc import Callable

from graph.fused_calls import attention, layers
from graph.fused_calls.call import FusedCall, floats, is_constant, save_call

__all__ = ["CALLS", "FusedCall", "floats", "is_constant", "save_call"]

TABLES: tuple[Callable[[], dict[str, FusedCall]], ...] = (
    attention.attention_calls,
    attention.grouped_calls,
    attention.standard_attention_calls,
    layers.norm_calls,
    layers.activation_calls,
    layers.contraction_calls,
    layers.einsum_calls,
    attention.packed_calls,
    attention.position_calls,
)
CALLS = {name: call for table in TABLES for name, call in table().items()}
