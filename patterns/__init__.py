"""The idioms graphrebase knows, one file each; ``PATTERNS`` lists them.

A pattern labels parts of a graph for people and for alignment. What may be permuted is proved by
the axis algebra alone, so a missed or wrong label can cost quality, never soundness.
"""

from graphrebase.patterns import (
    attention_operator,
    attention_softmax,
    attention_weights,
    layer_norm,
    layer_norm_decomposed,
    layer_norm_folded,
    rms_norm_decomposed,
)

from graphrebase.graph.pattern import Pattern

PATTERNS: tuple[Pattern, ...] = (
    attention_softmax.PATTERN,
    attention_operator.PATTERN,
    attention_weights.PATTERN,
    layer_norm.PATTERN,
    layer_norm_decomposed.PATTERN,
    layer_norm_folded.PATTERN,
    rms_norm_decomposed.PATTERN,
)

__all__ = ["PATTERNS"]
