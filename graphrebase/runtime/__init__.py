"""Running models on onnxruntime: equivalence checks and evaluation."""

from graphrebase.runtime.comparison import (
    Comparison,
    compare,
    equivalent,
    model_tolerance,
    tolerance,
)
from graphrebase.runtime.data import cast_inputs, load_npz, split_labels
from graphrebase.runtime.scores import Scores, evaluate
from graphrebase.runtime.session import InputSpec, Session
from graphrebase.runtime.synthetic import length_limit, synthetic_inputs, table_limit, two_sizes

__all__ = [
    "Comparison",
    "InputSpec",
    "Scores",
    "Session",
    "cast_inputs",
    "compare",
    "equivalent",
    "evaluate",
    "length_limit",
    "load_npz",
    "model_tolerance",
    "split_labels",
    "synthetic_inputs",
    "table_limit",
    "tolerance",
    "two_sizes",
]
